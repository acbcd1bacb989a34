// The right-hand side while rating: normal or abnormal, anomalies with types, windows and boxes, and afterwards the judge.
import { $, el, reward, tell } from "./dom.js";
import { Draft } from "./draft.js";

export class RatingPanel {
  constructor({ player, saver, types, judged, onNext, onFinished }) {
    Object.assign(this, { player, saver, types, judged, onNext, onFinished });
  }

  open(item) {
    this.item = item;
    this.preview = null;
    this.keyed = null;
    this.draft = new Draft(item, (save = true) => { if (save) this.save(); this.render(); });
    this.render();
  }

  get locked() { return this.judged && !!this.item.suggestion; }

  save() {
    const { item, draft } = this, state = draft.state;
    item.answer = structuredClone(state);
    return this.saver.put(item.key, state).then((reply) => {
      item.suggestion = reply.suggestion;
      return true;
    }, (error) => {
      tell(error.message);
      if (state.done) { state.done = false; item.answer = structuredClone(state); }
      return false;
    });
  }

  // A finished answer is only finished once the server says so.
  async finish() {
    if (this.draft.state.done) { this.onNext(); return; }
    if (this.finishing) return;
    if (!this.draft.state.status) { tell("Answer first: is the video normal (N) or abnormal (A)?"); return; }
    const item = this.item;
    this.finishing = true;
    this.draft.state.done = true;
    const saved = await this.save();
    this.finishing = false;
    if (saved) this.onFinished();
    if (item !== this.item) return;
    if (saved && item.answer.done && !item.suggestion) this.onNext(); else this.render();
  }

  act(name, ...values) {
    if (this.locked) { tell("The judge's verdict has been shown, so this answer stays as it is."); return; }
    const needs = ["setWindow", "setStart", "setEnd", "addBoxes", "copyBoxes"];
    if (needs.includes(name) && !this.draft.anomaly) { tell(`First choose what is wrong: 1 to ${this.types.length}.`); return; }
    tell("");
    this.draft[name](...values);
  }

  onBox(box, ended) {
    if (ended) {
      this.preview = null;
      if (box && box[2] - box[0] >= 5 && box[3] - box[1] >= 5) this.act("addBoxes", this.player.frame, [box]);
      else this.paint();
    } else if (!this.locked) { this.player.pause(); this.preview = { box }; this.paint(); }
  }

  onWindow(from, to, ended) {
    if (ended) {
      this.preview = null;
      if (to !== null) this.act("setWindow", from, to); else this.paint();
    } else if (!this.locked) {
      this.preview = this.draft.anomaly ? { frames: [Math.min(from, to), Math.max(from, to)] } : null;
      this.player.pause();
      this.player.show(to);
    }
  }

  key(key, event) {
    const { draft, player } = this, frame = player.frame;
    if (this.keyed !== null && this.moveKeyed(key, event.shiftKey)) return true;
    const type = this.types[Number(key) - 1];
    if (type) { this.act("add", type.name); return true; }
    const acts = {
      n: () => this.act("setStatus", "normal"), a: () => this.act("setStatus", "abnormal"),
      i: () => this.act("setStart", frame), o: () => this.act("setEnd", frame),
      w: () => this.act("setWindow", 0, this.item.num_frames - 1),
      b: () => this.startKeyed(), c: () => this.act("copyBoxes", frame),
      Delete: () => this.act("removeBox", frame), Backspace: () => this.act("removeBox", frame),
      "[": () => draft.choose(draft.chosen - 1), "]": () => draft.choose(draft.chosen + 1),
      x: () => this.act("remove"), u: () => this.act("undo"), Enter: () => { this.finish(); },
    };
    if (acts[key]) acts[key]();
    return key in acts;
  }

  startKeyed() {
    this.player.pause();
    this.act("addBoxes", this.player.frame, [[400, 400, 600, 600]]);
    if (this.draft.anomaly && !this.locked) { this.keyed = this.player.frame; this.paint(); }
  }

  moveKeyed(key, resize) {
    const boxes = this.draft.anomaly?.boxes[this.keyed], step = { ArrowLeft: [-20, 0], ArrowRight: [20, 0], ArrowUp: [0, -20], ArrowDown: [0, 20] }[key];
    if (!step || !boxes?.length || this.keyed !== this.player.frame) {
      this.keyed = null;
      this.paint();
      return key === "Escape";
    }
    let [x, y, x1, y1] = boxes.at(-1);
    if (resize) {
      x1 = Math.min(Math.max(x1 + step[0], x + 20), 1000); y1 = Math.min(Math.max(y1 + step[1], y + 20), 1000);
    } else {
      const dx = Math.min(Math.max(step[0], -x), 1000 - x1), dy = Math.min(Math.max(step[1], -y), 1000 - y1);
      [x, y, x1, y1] = [x + dx, y + dy, x1 + dx, y1 + dy];
    }
    this.act("moveBox", this.keyed, boxes.length - 1, [x, y, x1, y1]);
    return true;
  }

  // Every letter is saved like a click; the page is not drawn anew, so that the cursor stays.
  text(change) {
    change(this.draft.state);
    this.draft.state.done = false;
    this.save();
  }

  paint() {
    const { draft, player, preview } = this, frame = player.frame, boxes = [], windows = [];
    draft.state.anomalies.forEach((a, k) => {
      const chosen = k === draft.chosen, shown = chosen && preview?.frames ? preview.frames : a.frames;
      for (const box of a.boxes[frame] ?? []) boxes.push({ box, kind: chosen ? "" : "other" });
      if (chosen && this.keyed === frame && boxes.length) boxes.at(-1).kind = "keyed";
      windows.push({ frames: shown, kind: chosen ? "w chosen" : "w", marks: Object.keys(a.boxes).map(Number) });
    });
    for (const a of this.item.suggestion?.anomalies ?? []) {
      for (const box of a.boxes[frame] ?? []) boxes.push({ box, kind: "judge" });
      windows.push({ frames: a.frames, kind: "judge", marks: [] });
    }
    if (preview?.box) boxes.push({ box: preview.box, kind: "" });
    player.draw(boxes, windows);
  }

  render() {
    this.paint();
    document.body.classList.toggle("locked", this.locked);
    const { state } = this.draft, off = this.locked;
    const choice = (name, key, kind) => el("button", {
      type: "button", class: kind, "aria-pressed": state.status === name, disabled: off, "data-answer": name,
      onclick: () => this.act("setStatus", name),
    }, name[0].toUpperCase() + name.slice(1), " ", el("kbd", {}, key));
    $("panel").replaceChildren(
      el("div", { class: "choices" }, choice("normal", "N", "good"), choice("abnormal", "A", "bad")),
      state.status === "abnormal" && !off ? el("div", {}, el("h2", {}, "What is wrong? Add one for each anomaly."),
        el("div", { class: "types" }, this.types.map(({ name, means }, k) => el("button", {
          type: "button", "data-type": name, onclick: () => this.act("add", name),
        }, el("kbd", {}, k + 1), " ", el("b", {}, name), el("span", { class: "means" }, means))))) : "",
      el("ol", { class: "found" }, state.anomalies.map((a, k) => this.card(a, k))),
      this.verdict(),
      el("div", { class: "go" },
        el("button", { type: "button", "data-key": "p" }, "Previous"),
        el("button", { type: "button", class: "main", id: "done", onclick: () => this.finish() }, state.done ? "Next " : "Done ", el("kbd", {}, "Enter"))),
    );
  }

  card(a, index) {
    const { draft } = this, chosen = index === draft.chosen, off = this.locked, boxed = Object.keys(a.boxes).length;
    const count = Object.values(a.boxes).flat().length;
    const note = (label, value, set) => el("input", {
      value, placeholder: label, "aria-label": label, maxlength: 300, disabled: off,
      oninput: (e) => this.text(() => set(draft.state.anomalies[index], e.target.value)),
    });
    return el("li", {
      class: chosen ? "chosen" : "",
      onpointerdown: (e) => { if (!chosen && !e.target.closest("button, input, select")) draft.choose(index); },
    },
    el("div", { class: "head" },
      el("select", {
        "aria-label": "Type", disabled: off,
        onchange: (e) => draft.change((s) => { s.anomalies[index].type = e.target.value; }),
      }, this.types.map(({ name }) => el("option", { selected: name === a.type }, name))),
      off ? "" : el("span", {},
        el("button", { type: "button", "aria-pressed": chosen, onclick: () => draft.choose(index) }, chosen ? "Chosen" : "Choose"), " ",
        el("button", { type: "button", "aria-label": `Remove anomaly ${index + 1}`, onclick: () => this.act("remove", index) }, "Remove"))),
    el("p", { class: a.frames ? "when" : "when missing" },
      a.frames ? `Frames ${a.frames[0]}–${a.frames[1]}` : "No window yet: drag on the timeline, or press I and O",
      count ? ` · ${count} box${count > 1 ? "es" : ""} on ${boxed} frame${boxed > 1 ? "s" : ""}` : " · no box yet: draw on the picture"),
    el("div", { class: "texts" },
      note("What is it?", a.objects.join(", "), (x, v) => { x.objects = v.split(",").map((o) => o.trim()).filter(Boolean); }),
      note("What is wrong with it?", a.reason, (x, v) => { x.reason = v; })));
  }

  verdict() {
    const found = this.item.suggestion;
    if (!found) return "";
    const same = found.status === this.draft.state.status;
    return el("div", { class: "told", id: "verdict" },
      el("h2", {}, same ? (found.note ? "The judge's verdict agrees, its reward does not" : "The judge agrees") : "The judge sees it differently"),
      el("p", {}, "Verdict ", el("span", { class: `status ${found.status}` }, found.status), found.score == null ? "" : ` · reward ${reward(found.score)}`),
      found.note ? el("p", { class: "small" }, found.note) : "",
      found.unfamiliar ? el("p", { class: "small" }, `It was not trained on such videos: ${found.unfamiliar}`) : "",
      found.anomalies.map((a) => el("p", { class: "small" }, `${a.type}, frames ${a.frames[0]}–${a.frames[1]}${a.reason ? ": " + a.reason : ""}`)));
  }
}
