// page.js: the page that halutd serves at "/": its three tabs, each a module. Nothing is loaded from elsewhere.
import "./classify.js";
import "./multiply.js";
import { by } from "./dom.js";
import { watch } from "./live.js";

// Arrows move between tabs, as the ARIA pattern has it.
const tabs = [...document.querySelectorAll('[role="tab"]')];

function choose(tab) {
  for (const one of tabs) {
    const on = one === tab;
    one.setAttribute("aria-selected", String(on));
    one.tabIndex = on ? 0 : -1;
    by(one.getAttribute("aria-controls")).hidden = !on;
  }
  watch(tab.id === "tab-live");
}

for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tabs.length - 1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = tabs[(steps[event.key] + tabs.length) % tabs.length];
    choose(next);
    next.focus();
  });
}
