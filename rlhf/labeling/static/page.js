"use strict";
// Shows one pair after another and sends each answer.  An answer counts once the server confirms that it is on disk.
// Until then the pair stays visible, and the same answer may be sent again without being counted twice.
const QUESTIONS = ["helpfulness", "harmlessness", "overall"];
const SIDES = [["left", "First", "1"], ["tie", "Tie", "2"], ["right", "Second", "3"]];
const get = (id) => document.getElementById(id);
const views = ["instructions", "pair", "finished"].map(get);
const state = { pairs: [], token: "", index: 0, busy: false, history: [], seconds: 0, clockStart: 0, started: false };

function field(question) {
  return document.querySelector(`fieldset[data-question="${question}"]`);
}

function chosen(question) {
  return field(question).querySelector("input:checked")?.value ?? null;
}

function currentQuestion() {
  return QUESTIONS.find((question) => chosen(question) === null) ?? null;
}

function buildChoices() {
  for (const question of QUESTIONS) {
    const row = document.createElement("div");
    row.className = "choices";
    for (const [value, name, key] of SIDES) {
      const label = document.createElement("label");
      const input = document.createElement("input");
      input.type = "radio";
      input.name = question;
      input.value = value;
      input.addEventListener("change", highlightCurrent);
      const hint = document.createElement("kbd");
      hint.textContent = key;
      hint.setAttribute("aria-hidden", "true");
      label.append(input, `${name} `, hint);
      row.append(label);
    }
    field(question).append(row);
  }
}

function highlightCurrent() {
  const current = currentQuestion();
  for (const question of QUESTIONS) {
    field(question).classList.toggle("current", question === current);
  }
  get("save").disabled = state.busy || current !== null;
}

function showStatus(message, problem = false) {
  get("status").textContent = message;
  get("status").classList.toggle("problem", problem);
}

function setText(element, text) {
  element.textContent = text || "empty answer";
  element.classList.toggle("empty", !text);
}

function showView(view) {
  for (const candidate of views) {
    candidate.hidden = candidate !== view;
  }
  window.scrollTo(0, 0);
  view.querySelector("h1").focus({ preventScroll: true });
}

function updateProgress() {
  const done = state.pairs.filter((pair) => pair.done).length;
  get("progress").max = state.pairs.length;
  get("progress").value = done;
  get("count").textContent = `${done} of ${state.pairs.length}`;
  return done;
}

function stopClock() {
  if (state.clockStart) {
    state.seconds += (performance.now() - state.clockStart) / 1000;
  }
  state.clockStart = 0;
}

function startClock() {
  state.clockStart = document.hidden || get("pair").hidden ? 0 : performance.now();
}

function elapsedSeconds() {
  return state.seconds + (state.clockStart ? (performance.now() - state.clockStart) / 1000 : 0);
}

function updateClock() {
  const total = Math.floor(elapsedSeconds());
  get("clock").textContent = get("pair").hidden ? "" : `· ${Math.floor(total / 60)}:${String(total % 60).padStart(2, "0")}`;
}

function openPair(index) {
  stopClock();
  updateProgress();
  if (index < 0) {
    showFinished();
    return;
  }
  state.index = index;
  const pair = state.pairs[index];
  state.seconds = pair.seconds;
  get("title").textContent = `Pair ${index + 1} of ${state.pairs.length}`;
  get("dialogue").replaceChildren(
    ...pair.turns.map(([speaker, text]) => {
      const turn = document.createElement("div");
      turn.className = "turn";
      const heading = document.createElement("h2");
      heading.textContent = { Human: "Person", Assistant: "Assistant" }[speaker] ?? "Text";
      const body = document.createElement("div");
      body.className = "text";
      body.dir = "auto";
      body.textContent = text;
      turn.append(heading, body);
      return turn;
    }),
  );
  get("dialogue").tabIndex = 0;
  setText(document.querySelector("#left-answer .text"), pair.left);
  setText(document.querySelector("#right-answer .text"), pair.right);
  get("questions").reset();
  get("comment").value = pair.comment;
  highlightCurrent();
  showView(get("pair"));
  get("dialogue").scrollTop = get("dialogue").scrollHeight;
  startClock();
  updateClock();
}

function showFinished() {
  const total = state.pairs.reduce((sum, pair) => sum + pair.seconds, 0);
  get("summary").textContent = `${state.pairs.length} pairs in ${Math.max(1, Math.round(total / 60))} minutes.`;
  showView(get("finished"));
  updateClock();
}

function nextOpenPair() {
  return state.pairs.findIndex((pair) => !pair.done);
}

async function send(index, choices) {
  const pair = state.pairs[index];
  const response = await fetch("/api/answers", {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Request-Token": state.token },
    body: JSON.stringify({
      pair_id: pair.id,
      revision: pair.revision + 1,
      choices,
      comment: index === state.index && !get("pair").hidden ? get("comment").value : pair.comment,
      seconds: index === state.index && !get("pair").hidden ? Math.round(elapsedSeconds() * 10) / 10 : pair.seconds,
    }),
  });
  const answer = await response.json();
  if (!response.ok) {
    throw new Error(answer.detail);
  }
  Object.assign(pair, answer);
}

async function trySaving(action, success) {
  if (state.busy) {
    return;
  }
  state.busy = true;
  highlightCurrent();
  showStatus("Saving …");
  try {
    await action();
    showStatus(success);
  } catch (error) {
    const unreachable = error instanceof TypeError;
    showStatus(unreachable ? "Not saved: the server does not respond. Once it is running again, press Enter." : `Not saved: ${error.message}.`, true);
  } finally {
    state.busy = false;
    highlightCurrent();
  }
}

function save() {
  if (currentQuestion() !== null) {
    return;
  }
  const index = state.index;
  const choices = Object.fromEntries(QUESTIONS.map((question) => [question, chosen(question)]));
  trySaving(async () => {
    await send(index, choices);
    state.history.push(index);
    openPair(nextOpenPair());
  }, "Saved.");
}

function undo() {
  const answered = get("pair").hidden ? [] : QUESTIONS.filter((question) => chosen(question) !== null);
  if (answered.length && !state.busy) {
    field(answered[answered.length - 1]).querySelector("input:checked").checked = false;
    highlightCurrent();
    showStatus("Choice undone.");
    return;
  }
  const previous = state.history.length ? state.history[state.history.length - 1] : state.pairs.findLastIndex((pair) => pair.done);
  if (previous < 0) {
    showStatus("There is nothing to undo.");
    return;
  }
  trySaving(async () => {
    await send(previous, null);
    state.history.pop();
    openPair(previous);
  }, "The previous pair is undone.");
}

function press(key) {
  const current = currentQuestion();
  const side = SIDES.find(([, , digit]) => digit === key);
  if (side && current !== null && !state.busy) {
    field(current).querySelector(`input[value="${side[0]}"]`).checked = true;
    showStatus("");
    highlightCurrent();
    if (currentQuestion() === null) {
      save();
    }
  }
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.repeat) {
    return;
  }
  if (event.target === get("comment")) {
    if (event.key === "Escape") {
      get("comment").blur();
    }
    return;
  }
  const inPair = !get("pair").hidden;
  if (event.key === "h") {
    help();
  } else if (event.key === "u" && get("instructions").hidden) {
    undo();
  } else if (inPair && event.key === "c") {
    get("comment").focus();
    event.preventDefault();
  } else if (inPair && event.key === "Enter" && event.target.tagName !== "BUTTON") {
    event.preventDefault();
    save();
  } else if (inPair) {
    press(event.key);
  }
}

function help() {
  if (get("instructions").hidden) {
    stopClock();
    get("start").textContent = "Continue";
    showView(get("instructions"));
    updateClock();
  } else {
    resume();
  }
}

function resume() {
  const paused = state.pairs[state.index] && !state.pairs[state.index].done && state.clockStart === 0 && state.started;
  if (paused) {
    showView(get("pair"));
    startClock();
  } else {
    state.started = true;
    openPair(nextOpenPair());
  }
}

async function main() {
  buildChoices();
  const response = await fetch("/api/pairs");
  if (!response.ok) {
    window.location.replace("/");
    return;
  }
  const loaded = await response.json();
  state.pairs = loaded.pairs;
  state.token = loaded.token;
  get("annotator").textContent = loaded.annotator;
  get("leave").hidden = !loaded.names_allowed;
  get("start").addEventListener("click", resume);
  get("help").addEventListener("click", help);
  get("undo").addEventListener("click", undo);
  get("undo-last").addEventListener("click", undo);
  get("questions").addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", () => (document.hidden ? stopClock() : startClock()));
  setInterval(updateClock, 1000);
  if (updateProgress() === 0) {
    showView(get("instructions"));
  } else {
    state.started = true;
    openPair(nextOpenPair());
  }
}

main().catch(() => showStatus("The server does not respond. Once it is running again, reload this page.", true));
