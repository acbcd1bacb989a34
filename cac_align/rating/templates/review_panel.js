// The right-hand side while reviewing: what the annotator marked, accept or return, and a note.
import { $, el, tell } from "./dom.js";

export class ReviewPanel {
  constructor({ player, saver, onNext, onFinished }) {
    Object.assign(this, { player, saver, onNext, onFinished });
  }

  open(item) {
    this.item = item;
    this.state = structuredClone(item.answer ?? { decision: null, note: "", done: false });
    this.render();
  }

  save() {
    const { item, state } = this;
    item.answer = structuredClone(state);
    return this.saver.put(item.key, state).then(() => true, (error) => {
      tell(error.message);
      state.done = false;
      item.answer = structuredClone(state);
      return false;
    });
  }

  decide(decision) {
    this.state.decision = decision;
    this.state.done = false;
    tell("");
    this.save();
    this.render();
    if (decision === "return") $("note").focus();
  }

  async finish() {
    if (this.state.done) { this.onNext(); return; }
    const { item, state } = this;
    state.done = true;
    if (await this.save()) {
      this.onFinished();
      if (item === this.item) this.onNext();
    } else $("note").focus();
  }

  onBox() {}
  onWindow(from, to, ended) { if (to !== null && !ended) { this.player.pause(); this.player.show(to); } }

  key(key) {
    const acts = { a: () => this.decide("accept"), r: () => this.decide("return"), Enter: () => { this.finish(); } };
    if (acts[key]) acts[key]();
    return key in acts;
  }

  paint() {
    const found = this.item.annotation.anomalies, frame = this.player.frame;
    this.player.draw(
      found.flatMap((a) => (a.boxes[frame] ?? []).map((box) => ({ box, kind: "" }))),
      found.map((a) => ({ frames: a.frames, kind: "w chosen", marks: Object.keys(a.boxes).map(Number) })));
  }

  render() {
    this.paint();
    const { annotation } = this.item, { decision, note } = this.state;
    const choice = (name, text, key, kind) => el("button", {
      type: "button", class: kind, "aria-pressed": decision === name, "data-answer": name, onclick: () => this.decide(name),
    }, text, " ", el("kbd", {}, key));
    const facts = [annotation.annotator && `by ${annotation.annotator}`, annotation.batch && `batch ${annotation.batch}`];
    $("panel").replaceChildren(
      el("div", {}, el("h2", {}, [annotation.made_by ? `${annotation.origin}, made by ${annotation.made_by}` : annotation.origin || "The annotator says", ...facts.filter(Boolean)].join(" · ")),
        el("p", {}, el("span", { class: `status ${annotation.status}` }, annotation.status))),
      el("ol", { class: "found" }, annotation.anomalies.map((a) => el("li", {},
        el("p", {}, el("span", { class: "chip" }, a.type)),
        el("p", { class: "when" }, `Frames ${a.frames[0]}–${a.frames[1]} · ${Object.keys(a.boxes).length} frames with boxes`),
        a.reason || a.objects.length ? el("p", { class: "small" }, [a.objects.join(", "), a.reason].filter(Boolean).join(": ")) : "",
        el("p", {}, el("button", { type: "button", onclick: () => { this.player.pause(); this.player.show(Number(Object.keys(a.boxes)[0] ?? a.frames[0])); } }, "Show"))))),
      el("div", { class: "choices" }, choice("accept", "Accept", "A", "good"), choice("return", "Return", "R", "bad")),
      el("div", {}, el("label", { for: "note", class: "soft small" }, "Note to the annotator (needed to return)"),
        el("textarea", {
          id: "note", value: note, maxlength: 2000,
          oninput: (e) => {
            this.state.note = e.target.value;
            this.state.done = false;
            this.save();
          },
        })),
      el("div", { class: "go" },
        el("button", { type: "button", "data-key": "p" }, "Previous"),
        el("button", { type: "button", class: "main", id: "done", onclick: () => this.finish() }, this.state.done ? "Next " : "Done ", el("kbd", {}, "Enter"))),
    );
  }
}
