// One person's way through the videos: entering, keys, progress, going on and coming back.
import { $, tell } from "./dom.js";
import { Player } from "./player.js";
import { RatingPanel } from "./rating_panel.js";
import { showResults } from "./results.js";
import { ReviewPanel } from "./review_panel.js";
import { Saver, post } from "./saving.js";

const NAME = "cac-align-person";
let study, panel, at = 0;

const player = new Player({
  onFrame: () => panel?.item && panel.paint(),
  onBox: (box, ended) => panel.onBox(box, ended),
  onWindow: (from, to, ended) => panel.onWindow(from, to, ended),
});

async function enter(name) {
  try {
    study = await post("/api/enter", { name });
  } catch (error) { tell(error.message); return; }
  tell("");
  sessionStorage.setItem(NAME, study.person);
  if (!study.items.length) { tell(`Nothing is asked of ${study.person}: these videos are for other people.`); return; }
  const saver = new Saver(study.person);
  const options = { player, saver, types: guide(), judged: study.judged, onNext: () => go(nextOpen()), onFinished: progress };
  panel = study.mode === "review" ? new ReviewPanel(options) : new RatingPanel(options);
  $("person").textContent = study.person;
  $("enter").hidden = true;
  $("top").hidden = false;
  const last = study.items.findIndex((i) => i.key === study.last && !i.answer?.done);
  at = -1;
  const open = last >= 0 ? last : nextOpen();
  if (open === null) go(0); else go(open);
}

// The types and what they mean, as the page itself tells them.
function guide() {
  return [...document.querySelectorAll("#types > div")].map((row) => ({
    name: row.querySelector("dt").textContent, means: row.querySelector("dd").textContent,
  }));
}

const finished = () => study.items.filter((i) => i.answer?.done).length;

// The next video that is not finished, from here on and then from the beginning.
function nextOpen() {
  const count = study.items.length;
  for (let k = 1; k <= count; k++) {
    const index = (at + k + count) % count;
    if (!study.items[index].answer?.done) return index;
  }
  return null;
}

function go(index) {
  if (index === null) { results(); return; }
  at = index;
  const item = study.items[at];
  $("results").hidden = true;
  $("work").hidden = false;
  $("prompt").textContent = item.prompt || "not known";
  $("prompt").className = item.prompt ? "" : "soft";
  panel.item = null;
  player.load(item);
  panel.open(item);
  progress();
  scrollTo(0, 0);
}

function progress() {
  const count = study.items.length, done = finished();
  $("title").textContent = `Video ${at + 1} of ${count} · ${done} finished`;
  $("progress").style.width = `${(100 * done) / count}%`;
  $("progress").parentElement.setAttribute("aria-valuemax", count);
  $("progress").parentElement.setAttribute("aria-valuenow", done);
}

async function results() {
  player.pause();
  const look = (key) => go(study.items.findIndex((i) => i.key === key));
  $("work").hidden = true;
  $("results").hidden = false;
  progress();
  if (!await showResults(study.person, { back: () => go(at), look })) go(at);
}

function press(key, event) {
  if (panel.key(key, event)) return true;
  const step = event.shiftKey ? 8 : 1;
  const acts = {
    " ": () => player.toggle(), s: () => player.setSlow(!player.slow), p: () => go(Math.max(at - 1, 0)),
    ArrowLeft: () => player.step(-step), ArrowRight: () => player.step(step),
    Home: () => player.step(-Infinity), End: () => player.step(Infinity), "?": () => $("help").showModal(), h: () => $("guide").showModal(),
  };
  if (acts[key]) acts[key]();
  return key in acts;
}

addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("textarea, input:not([type=range]), select");
  if (typing) {
    if (event.key === "Escape" || (event.key === "Enter" && typing.tagName === "INPUT" && !typing.form)) typing.blur();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && panel) { typing.blur(); panel.finish(); }
    return;
  }
  if (["Shift", "Control", "Alt", "Meta"].includes(event.key)) return;
  if ($("work").hidden || document.querySelector("dialog[open]") || event.altKey || event.metaKey || event.isComposing) return;
  if (event.ctrlKey) { if (event.key === "z") { press("u", event); event.preventDefault(); } return; }
  // A button reached by Tab does what it says.
  if ([" ", "Enter"].includes(event.key) && event.target.matches?.("button:focus-visible")) return;
  if (press(event.key.length === 1 ? event.key.toLowerCase() : event.key, event)) event.preventDefault();
});

addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button && event.detail) button.blur();
  if (button?.dataset.key) press(button.dataset.key, event);
});

$("enter-form").addEventListener("submit", (event) => { event.preventDefault(); enter($("name").value); });
$("open-help").addEventListener("click", () => $("help").showModal());
for (const button of document.querySelectorAll("[data-open]")) button.addEventListener("click", () => $(button.dataset.open).showModal());
$("open-results").addEventListener("click", results);

const known = sessionStorage.getItem(NAME);
if (known) enter(known); else $("name").focus();
