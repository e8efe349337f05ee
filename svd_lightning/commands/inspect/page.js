"use strict";
// Tabs as in the ARIA Authoring Practices: one stop for Tab, arrow keys between the tokens.
const tokens = [...document.querySelectorAll("[role=tab]")];
const panels = tokens.map((token) => document.getElementById(token.getAttribute("aria-controls")));
let current = 0;

function show(next) {
  tokens[current].setAttribute("aria-selected", "false");
  tokens[current].tabIndex = -1;
  panels[current].classList.remove("shown");
  current = next;
  tokens[current].setAttribute("aria-selected", "true");
  tokens[current].tabIndex = 0;
  panels[current].classList.add("shown");
  panels[current].parentElement.scrollTop = 0;
}

// The token of the line above or below that is nearest sideways.
function beside(direction) {
  const box = (n) => tokens[n].getBoundingClientRect();
  const here = box(current);
  const centre = here.left + here.width / 2;
  const apart = (n) => Math.abs(box(n).left + box(n).width / 2 - centre);
  let line = null, best = current;
  for (let n = current + direction; tokens[n]; n += direction) {
    const middle = (box(n).top + box(n).bottom) / 2;
    if (middle > here.top && middle < here.bottom) continue;
    if (line !== null && Math.abs(middle - line) > here.height / 2) break;
    if (line === null || apart(n) < apart(best)) best = n;
    line = middle;
  }
  return best;
}

const moves = {
  ArrowLeft: () => Math.max(current - 1, 0),
  ArrowRight: () => Math.min(current + 1, tokens.length - 1),
  ArrowUp: () => beside(-1),
  ArrowDown: () => beside(1),
  Home: () => 0,
  End: () => tokens.length - 1,
};

tokens.forEach((token, n) => {
  token.addEventListener("mouseenter", () => show(n));
  token.addEventListener("focus", () => show(n));
  token.addEventListener("click", () => show(n));
  token.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    show(n);  // the mouse may have shown another one meanwhile
    tokens[move()].focus();
  });
});

document.documentElement.classList.add("js");
if (tokens.length) show(0);
