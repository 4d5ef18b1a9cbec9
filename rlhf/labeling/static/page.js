"use strict";
// Shows one pair after the other and sends each answer.  An answer counts as given once the server has said that it is
// on the disk; until then the pair stays, and the same answer may be sent again without being counted twice.
const QUESTIONS = ["helpfulness", "harmlessness", "overall"];
const SIDES = [["left", "First", "1"], ["tie", "Tie", "2"], ["right", "Second", "3"]];
const get = (id) => document.getElementById(id);
const views = ["instructions", "pair", "finished"].map(get);
const state = { pairs: [], token: "", at: 0, busy: false, history: [], seconds: 0, since: 0 };

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
      input.addEventListener("change", mark);
      const hint = document.createElement("kbd");
      hint.textContent = key;
      hint.setAttribute("aria-hidden", "true");
      label.append(input, `${name} `, hint);
      row.append(label);
    }
    field(question).append(row);
  }
}

function mark() {
  const current = currentQuestion();
  for (const question of QUESTIONS) {
    field(question).classList.toggle("current", question === current);
  }
  get("save").disabled = state.busy || current !== null;
}

function say(message, problem = false) {
  get("status").textContent = message;
  get("status").classList.toggle("problem", problem);
}

function put(element, text) {
  element.textContent = text || "empty answer";
  element.classList.toggle("empty", !text);
}

function show(view) {
  for (const other of views) {
    other.hidden = other !== view;
  }
  window.scrollTo(0, 0);
  view.querySelector("h1").focus({ preventScroll: true });
}

function progress() {
  const done = state.pairs.filter((pair) => pair.done).length;
  get("progress").max = state.pairs.length;
  get("progress").value = done;
  get("count").textContent = `${done} of ${state.pairs.length}`;
  return done;
}

function stopClock() {
  if (state.since) {
    state.seconds += (performance.now() - state.since) / 1000;
  }
  state.since = 0;
}

function startClock() {
  state.since = document.hidden || get("pair").hidden ? 0 : performance.now();
}

function spent() {
  return state.seconds + (state.since ? (performance.now() - state.since) / 1000 : 0);
}

function tick() {
  const whole = Math.floor(spent());
  get("clock").textContent = get("pair").hidden ? "" : `· ${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function open(index) {
  stopClock();
  progress();
  if (index < 0) {
    finish();
    return;
  }
  state.at = index;
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
  put(document.querySelector("#left-answer .text"), pair.left);
  put(document.querySelector("#right-answer .text"), pair.right);
  get("questions").reset();
  get("comment").value = pair.comment;
  mark();
  show(get("pair"));
  get("dialogue").scrollTop = get("dialogue").scrollHeight;
  startClock();
  tick();
}

function finish() {
  const total = state.pairs.reduce((sum, pair) => sum + pair.seconds, 0);
  get("summary").textContent = `${state.pairs.length} pairs in ${Math.max(1, Math.round(total / 60))} minutes.`;
  show(get("finished"));
  tick();
}

function next() {
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
      comment: index === state.at && !get("pair").hidden ? get("comment").value : pair.comment,
      seconds: index === state.at && !get("pair").hidden ? Math.round(spent() * 10) / 10 : pair.seconds,
    }),
  });
  const answer = await response.json();
  if (!response.ok) {
    throw new Error(answer.detail);
  }
  Object.assign(pair, answer);
}

async function attempt(action, success) {
  if (state.busy) {
    return;
  }
  state.busy = true;
  mark();
  say("Saving …");
  try {
    await action();
    say(success);
  } catch (error) {
    const unreachable = error instanceof TypeError;
    say(unreachable ? "Not saved: the server does not answer. Start it again, then press Enter." : `Not saved: ${error.message}.`, true);
  } finally {
    state.busy = false;
    mark();
  }
}

function save() {
  if (currentQuestion() !== null) {
    return;
  }
  const index = state.at;
  const choices = Object.fromEntries(QUESTIONS.map((question) => [question, chosen(question)]));
  attempt(async () => {
    await send(index, choices);
    state.history.push(index);
    open(next());
  }, "Saved.");
}

function undo() {
  const given = get("pair").hidden ? [] : QUESTIONS.filter((question) => chosen(question) !== null);
  if (given.length && !state.busy) {
    field(given[given.length - 1]).querySelector("input:checked").checked = false;
    mark();
    say("Choice taken back.");
    return;
  }
  const previous = state.history.length ? state.history[state.history.length - 1] : state.pairs.findLastIndex((pair) => pair.done);
  if (previous < 0) {
    say("There is nothing to take back.");
    return;
  }
  attempt(async () => {
    await send(previous, null);
    state.history.pop();
    open(previous);
  }, "The answer before is taken back.");
}

function press(key) {
  const current = currentQuestion();
  const side = SIDES.find(([, , digit]) => digit === key);
  if (side && current !== null && !state.busy) {
    field(current).querySelector(`input[value="${side[0]}"]`).checked = true;
    say("");
    mark();
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
    get("start").textContent = "Go on";
    show(get("instructions"));
    tick();
  } else {
    resume();
  }
}

function resume() {
  const waiting = state.pairs[state.at] && !state.pairs[state.at].done && state.since === 0 && state.shown;
  if (waiting) {
    show(get("pair"));
    startClock();
  } else {
    state.shown = true;
    open(next());
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
  setInterval(tick, 1000);
  if (progress() === 0) {
    show(get("instructions"));
  } else {
    state.shown = true;
    open(next());
  }
}

main().catch(() => say("The server does not answer. Start it again, then reload this page.", true));
