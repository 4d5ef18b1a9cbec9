"use strict";
// Search and order of the responses, and the switch for toxic text.  Without scripts all responses are shown and only these tools are missing.
const FIRST = 10;
const list = document.getElementById("list");
const query = document.getElementById("query");
const order = document.getElementById("order");
const shown = document.getElementById("shown");
const more = document.getElementById("more");
const items = [...list.children].map((element) => ({
  element,
  text: element.textContent.toLocaleLowerCase(),
  index: Number(element.dataset.index),
  gain: Number(element.dataset.gain),
}));
const orders = {
  index: (a, b) => a.index - b.index,
  gain: (a, b) => b.gain - a.gain,
  loss: (a, b) => a.gain - b.gain,
};
const hidden = [...document.querySelectorAll("details.toxic")];
const switches = [...document.querySelectorAll(".reveal")];
let limit = FIRST;

function show() {
  const words = query.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const matches = items.sort(orders[order.value]).filter((item) => words.every((word) => item.text.includes(word)));
  const visible = new Set(matches.slice(0, words.length ? Infinity : limit));
  for (const item of items) {
    item.element.hidden = !visible.has(item);
  }
  list.replaceChildren(...items.map((item) => item.element));
  shown.textContent = `${visible.size} of ${items.length} shown`;
  more.hidden = visible.size === matches.length;
  more.textContent = `Show all ${matches.length}`;
}

function reveal(event) {
  for (const box of switches) {
    box.checked = event.target.checked;
  }
  for (const text of hidden) {
    text.open = event.target.checked;
  }
}

for (const box of switches) {
  box.checked = false; // a browser may remember what was checked before a reload
  box.closest("label").hidden = hidden.length === 0;
  box.addEventListener("change", reveal);
}
document.querySelector(".tools").hidden = false;
document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
query.addEventListener("input", show);
order.addEventListener("change", show);
more.addEventListener("click", () => {
  limit = Infinity;
  show();
});
show();
