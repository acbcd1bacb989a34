"use strict";
(() => {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const info = new Map(JSON.parse(document.getElementById("players").textContent).map((p) => [p.index, p]));
  const videos = [...document.querySelectorAll("[data-player] video")];
  const visible = new Set();
  let playing = !still, slow = false;

  // One copy of each video in the file: the large players borrow it from the cards.
  for (const video of document.querySelectorAll("video[data-copy]")) {
    video.src = document.querySelector(`[data-player="${video.dataset.copy}"] video[src]`).src;
  }

  function boxesAt(player, frame) {
    let best = -1;
    for (const key of Object.keys(player.boxes)) {
      const k = Number(key);
      if (k <= frame && frame - k < player.hold && k > best) best = k;
    }
    return best < 0 ? [] : player.boxes[best];
  }

  function drawBoxes(overlay, items) {
    const key = JSON.stringify(items);
    if (overlay.dataset.shown === key) return;
    overlay.dataset.shown = key;
    overlay.replaceChildren(...items.map(({ box: [x0, y0, x1, y1], label }) => {
      const node = document.createElement("div"), text = document.createElement("span");
      node.className = "box" + (y0 < 120 ? " low" : "") + (x0 > 550 ? " flip" : "");
      node.style.left = x0 / 10 + "%"; node.style.top = y0 / 10 + "%";
      node.style.width = (x1 - x0) / 10 + "%"; node.style.height = (y1 - y0) / 10 + "%";
      text.textContent = label;
      node.append(text);
      return node;
    }));
  }

  function show(video, time) {
    const root = video.closest("[data-player]"), player = info.get(Number(root.dataset.player));
    const frame = Math.min(Math.floor(time * player.fps + 1e-3), player.frames - 1);
    root.dataset.frame = frame;
    drawBoxes(root.querySelector(".overlay"), boxesAt(player, frame));
    const timeline = root.closest(".card, .evidence")?.querySelector("[data-timeline]");
    if (!timeline) return;
    const x = (100 * (frame + 0.5)) / player.frames + "%", heads = timeline.querySelectorAll(".playhead");
    for (const head of heads) { head.setAttribute("x1", x); head.setAttribute("x2", x); }
    const range = timeline.querySelector("input");
    if (range) { range.value = frame; range.setAttribute("aria-valuetext", (frame / player.fps).toFixed(2) + " seconds"); }
  }

  for (const video of videos) {
    if (video.requestVideoFrameCallback) {
      // While a seek is under way the frame of an earlier one may still be shown: it must not move the slider back.
      const step = (_, meta) => { if (!video.seeking) show(video, meta.mediaTime); video.requestVideoFrameCallback(step); };
      video.requestVideoFrameCallback(step);
    } else {
      video.addEventListener("timeupdate", () => show(video, video.currentTime));
      video.addEventListener("seeked", () => show(video, video.currentTime));
    }
    video.addEventListener("click", () => (video.paused ? start(video) : video.pause()));
  }

  for (const range of document.querySelectorAll(".timeline input")) {
    const video = range.closest(".evidence").querySelector("video"), player = info.get(Number(range.parentElement.dataset.timeline));
    range.addEventListener("input", () => {
      video.pause();
      // The middle of a frame's time, so that rounding never shows its neighbour.
      video.currentTime = (Number(range.value) + 0.5) / player.fps;
      show(video, video.currentTime);
    });
  }

  function start(video) {
    video.playbackRate = slow ? 0.25 : 1;
    video.play().catch(() => {});
  }

  function apply() {
    for (const video of videos) {
      video.playbackRate = slow ? 0.25 : 1;
      if (playing && visible.has(video)) start(video); else video.pause();
    }
  }

  // Only what is on screen plays: decoding everything at once stalls phones.
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) visible.add(entry.target); else visible.delete(entry.target);
      if (!entry.isIntersecting) entry.target.pause(); else if (playing) start(entry.target);
    }
  }, { rootMargin: "80px" });
  videos.forEach((video) => watcher.observe(video));

  const play = document.querySelector("[data-act=play]");
  const label = () => { play.textContent = playing ? "Pause" : "Play"; };
  play.addEventListener("click", () => { playing = !playing; label(); apply(); });
  label();

  function toggle(name, act) {
    const button = document.querySelector(`[data-act=${name}]`);
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", on);
      act(on);
    });
  }
  toggle("slow", (on) => { slow = on; apply(); });
  toggle("boxes", (on) => document.body.classList.toggle("no-boxes", !on));
})();
