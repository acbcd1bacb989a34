"use strict";
// The videos of a prompt run together: they begin at once, and one that has drifted is put back beside the first.
(() => {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  for (const article of document.querySelectorAll("[data-together]")) {
    const videos = [...article.querySelectorAll("video")], button = article.querySelector("button");
    const bar = article.querySelector("input"), first = videos[0];
    if (!first) continue;
    let wanted = false, seen = false;

    function set(playing) {
      wanted = playing;
      button.textContent = playing ? "Pause" : "Play";
      for (const video of videos) {
        if (playing) video.play().catch(() => {}); else video.pause();
      }
    }
    function seek(time) { for (const video of videos) video.currentTime = time; }

    for (const video of videos) {
      video.addEventListener("click", () => set(!wanted));
      video.addEventListener("loadeddata", () => { video.currentTime = first.currentTime; });
    }
    first.addEventListener("timeupdate", () => {
      bar.value = first.duration ? first.currentTime / first.duration : 0;
      for (const video of videos) {
        if (wanted && Math.abs(video.currentTime - first.currentTime) > 0.12) video.currentTime = first.currentTime;
      }
    });
    button.addEventListener("click", () => set(!wanted));
    bar.addEventListener("input", () => { set(false); seek(bar.value * (first.duration || 0)); });
    article.querySelector(".tools").hidden = false;
    // Only what is looked at runs: a page of many videos stays quick.
    new IntersectionObserver(([entry]) => {
      if (!entry.isIntersecting) { for (const video of videos) video.pause(); return; }
      if (!seen && !still) { seen = true; set(true); } else if (wanted) set(true);
    }).observe(article);
    set(false);
  }
  // A table wider than the page says so, and can be moved by keyboard.
  const tables = [...document.querySelectorAll(".scroll")];
  const mark = () => {
    for (const box of tables) {
      const wide = box.scrollWidth > box.clientWidth + 1;
      box.nextElementSibling.hidden = !wide;
      if (wide) box.tabIndex = 0; else box.removeAttribute("tabindex");
    }
  };
  addEventListener("resize", mark);
  mark();
})();
