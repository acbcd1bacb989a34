// Shows exact frames: pictures decoded by the server, drawn on a canvas; frame k is frame k.
import { $, svg } from "./dom.js";

const PACK = 16, KEPT = 64;

export class Player {
  constructor({ onFrame, onBox, onWindow }) {
    this.onFrame = onFrame;
    this.frame = 0;
    this.load(null);
    $("scrub").addEventListener("input", () => { this.pause(); this.show(Number($("scrub").value)); });
    drag($("boxes"), (a, b, end) => onBox(b && toBox(a, b), end), 2);
    drag($("windows"), (a, b, end) => {
      const n = this.item.num_frames, at = (p) => Math.min(Math.max(Math.floor(p.x * n), 0), n - 1);
      onWindow(at(a), b && at(b), end);
    }, 0);
  }

  load(item) {
    this.pause();
    this.item = item;
    this.blobs = [];
    this.bitmaps = new Map();
    if (!item) return;
    const stage = $("stage");
    stage.style.setProperty("--ratio", item.width / item.height);
    stage.classList.toggle("pixelated", Math.min(item.width, item.height) < 256);
    $("canvas").width = item.width; $("canvas").height = item.height;
    $("scrub").max = item.num_frames - 1;
    $("loading").textContent = "Loading…";
    delete stage.dataset.frame;
    this.fetchAll(item).catch((error) => { if (item === this.item) $("loading").textContent = error.message; });
    this.show(0);
  }

  async fetchAll(item) {
    for (let start = 0; start < item.num_frames; start += PACK) {
      const reply = await fetch(`/api/frames/${item.key}/${start}`);
      if (item !== this.item) return;
      if (!reply.ok) throw new Error((await reply.json()).error);
      const data = await reply.arrayBuffer(), view = new DataView(data);
      if (item !== this.item) return;
      for (let at = 0, k = start; at < data.byteLength; k++) {
        const size = view.getUint32(at);
        this.blobs[k] = new Blob([data.slice(at + 4, at + 4 + size)]);
        at += 4 + size;
      }
      if (this.frame >= start && this.frame < start + PACK) this.show(this.frame);
      $("loading").textContent = this.blobs.length < item.num_frames ? `Loading ${this.blobs.length} of ${item.num_frames}` : "";
    }
  }

  async show(frame) {
    const item = this.item, last = item.num_frames - 1;
    this.frame = Math.min(Math.max(frame, 0), last);
    $("scrub").value = this.frame;
    $("clock").textContent = `frame ${this.frame} of ${last} · ${(this.frame / item.fps).toFixed(2)} s`;
    $("scrub").setAttribute("aria-valuetext", $("clock").textContent);
    this.onFrame(this.frame);
    const wanted = this.frame, bitmap = await this.bitmap(wanted);
    if (!bitmap || item !== this.item || wanted !== this.frame) return;
    $("canvas").getContext("2d").drawImage(bitmap, 0, 0);
    $("stage").dataset.frame = wanted;
  }

  async bitmap(frame) {
    if (!this.blobs[frame]) return null;
    let made = this.bitmaps.get(frame);
    this.bitmaps.delete(frame);
    made ??= createImageBitmap(this.blobs[frame]);
    this.bitmaps.set(frame, made);
    if (this.bitmaps.size > KEPT) {
      const [oldest, old] = this.bitmaps.entries().next().value;
      this.bitmaps.delete(oldest);
      old.then((b) => b.close());
    }
    return made;
  }

  step(by) { this.pause(); this.show(this.frame + by); }
  toggle() { if (this.playing) this.pause(); else this.play(); }

  play() {
    this.playing = true;
    $("play").textContent = "Pause";
    const item = this.item, from = this.frame >= item.num_frames - 1 ? 0 : this.frame, began = performance.now();
    const rate = item.fps * (this.slow ? 0.25 : 1);
    const tick = (now) => {
      if (!this.playing || item !== this.item) return;
      const frame = Math.max((from + Math.floor(((now - began) / 1000) * rate)), 0) % item.num_frames;
      if (frame !== this.frame) this.show(frame);
      this.request = requestAnimationFrame(tick);
    };
    this.request = requestAnimationFrame(tick);
  }

  pause() {
    this.playing = false;
    cancelAnimationFrame(this.request);
    $("play").textContent = "Play";
  }

  setSlow(slow) {
    this.slow = slow;
    $("slow").setAttribute("aria-pressed", slow);
    if (this.playing) { this.pause(); this.play(); }
  }

  // boxes: {box, kind}[] on this frame; windows: {frames, kind, marks}[], one row each.
  draw(boxes, windows) {
    $("boxes").replaceChildren(...boxes.map(({ box: [x, y, x1, y1], kind }) =>
      svg("rect", { x, y, width: x1 - x, height: y1 - y, class: kind })));
    const n = this.item.num_frames, rows = Math.max(windows.length, 1), shapes = [];
    windows.forEach(({ frames, kind, marks }, row) => {
      const y = row * 10 + 1.5;
      if (frames) shapes.push(svg("rect", { x: frames[0], y, width: frames[1] - frames[0] + 1, height: 7, class: kind }));
      for (const k of marks) shapes.push(svg("rect", { x: k, y: y + 5, width: 1, height: 2, class: "mark" }));
    });
    const now = this.frame + 0.5;
    $("windows").setAttribute("viewBox", `0 0 ${n} ${rows * 10}`);
    $("windows").replaceChildren(...shapes, svg("line", { x1: now, x2: now, y1: 0, y2: rows * 10, class: "now" }));
  }
}

function toBox(a, b) {
  const grid = (v) => Math.min(Math.max(Math.round(v * 1000), 0), 1000);
  return [grid(Math.min(a.x, b.x)), grid(Math.min(a.y, b.y)), grid(Math.max(a.x, b.x)), grid(Math.max(a.y, b.y))];
}

// Calls act(start, now, ended) with places in [0, 1]; movements below `least` pixels are slips of the finger.
function drag(node, act, least) {
  let start = null, far = false;
  const place = (e) => {
    const r = node.getBoundingClientRect();
    return { x: (e.clientX - r.left) / r.width, y: (e.clientY - r.top) / r.height, px: e.clientX, py: e.clientY };
  };
  node.addEventListener("pointerdown", (e) => {
    if (e.button) return;
    start = place(e); far = least === 0;
    node.setPointerCapture(e.pointerId);
    e.preventDefault();
    document.activeElement?.blur?.();
  });
  node.addEventListener("pointermove", (e) => {
    if (!start) return;
    const now = place(e);
    far ||= Math.hypot(now.px - start.px, now.py - start.py) > least;
    if (far) act(start, now, false);
  });
  const stop = (e) => {
    if (start && far && e.type === "pointerup") act(start, place(e), true);
    else if (start && far) act(start, null, true);
    start = null;
  };
  node.addEventListener("pointerup", stop);
  node.addEventListener("pointercancel", stop);
}
