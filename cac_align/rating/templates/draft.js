// One person's rating of one video while they work on it: changes, undo, which anomaly is chosen.
const EMPTY = { status: null, anomalies: [], note: "", done: false };

export class Draft {
  constructor(item, onChange) {
    this.numFrames = item.num_frames;
    this.state = structuredClone(item.answer ?? EMPTY);
    this.chosen = this.state.anomalies.length - 1;
    this.past = [];
    this.onChange = onChange;
  }

  get anomaly() { return this.state.anomalies[this.chosen]; }

  change(act) {
    this.past.push([structuredClone(this.state), this.chosen]);
    this.state.done = false;
    act(this.state);
    this.chosen = Math.min(this.chosen, this.state.anomalies.length - 1);
    this.onChange();
  }

  undo() {
    if (!this.past.length) return;
    [this.state, this.chosen] = this.past.pop();
    this.onChange();
  }

  choose(index) {
    const count = this.state.anomalies.length;
    if (count) { this.chosen = (index + count) % count; this.onChange(false); }
  }

  setStatus(status) {
    this.change((s) => { s.status = status; if (status === "normal") s.anomalies = []; });
  }

  add(type) {
    this.change((s) => {
      s.status = "abnormal";
      s.anomalies.push({ type, frames: null, boxes: {}, objects: [], reason: "", region: "", salient: null });
      this.chosen = s.anomalies.length - 1;
    });
  }

  remove(index = this.chosen) {
    if (this.state.anomalies[index]) this.change((s) => s.anomalies.splice(index, 1));
  }

  setWindow(from, to) {
    const clip = (k) => Math.min(Math.max(k, 0), this.numFrames - 1);
    this.change(() => { this.anomaly.frames = [clip(Math.min(from, to)), clip(Math.max(from, to))]; });
  }

  // The window begins or ends here; the other end follows if it must.
  setStart(frame) { this.setWindow(frame, Math.max(frame, this.anomaly.frames?.[1] ?? frame)); }
  setEnd(frame) { this.setWindow(Math.min(frame, this.anomaly.frames?.[0] ?? frame), frame); }

  // A box belongs to a window: the first one makes it, one farther away than a frame widens it.
  addBoxes(frame, boxes) {
    this.change(() => {
      const a = this.anomaly, [start, end] = a.frames ?? [frame, frame];
      (a.boxes[frame] ??= []).push(...boxes);
      a.frames = frame < start - 1 || frame > end + 1 || !a.frames ? [Math.min(start, frame), Math.max(end, frame)] : a.frames;
    });
  }

  moveBox(frame, index, box) {
    this.change(() => { this.anomaly.boxes[frame][index] = box; });
  }

  removeBox(frame) {
    if (!this.anomaly?.boxes[frame]) return;
    this.change(() => {
      const boxes = this.anomaly.boxes;
      boxes[frame].pop();
      if (!boxes[frame].length) delete boxes[frame];
    });
  }

  copyBoxes(frame) {
    const from = Object.keys(this.anomaly?.boxes ?? {}).map(Number).filter((k) => k !== frame)
      .sort((a, b) => Math.abs(a - frame) - Math.abs(b - frame))[0];
    if (from !== undefined) this.addBoxes(frame, structuredClone(this.anomaly.boxes[from]));
  }
}
