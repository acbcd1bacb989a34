// What has come of it so far: rates, agreement, and where people and judge differ.
import { $, el, percent, reward, tell } from "./dom.js";
import { post } from "./saving.js";

const number = (x) => (x == null ? "–" : x.toFixed(2));

export async function showResults(person, { back, look }) {
  let found;
  $("results").replaceChildren(el("p", { class: "soft", role: "status" }, "Counting…"));
  try {
    found = await post("/api/results", { person });
  } catch (error) { tell(error.message); return false; }
  const { summary } = found;
  $("results").replaceChildren(
    el("h1", {}, "Results so far"),
    el("p", { class: "tools" }, el("button", { type: "button", class: "main", onclick: back }, "Back to the videos"), " ",
      el("button", { type: "button", id: "export", onclick: write }, "Write to files")),
    el("ul", { id: "written", class: "note" }),
    ...(found.mode === "review" ? reviewTables(summary) : ratingTables(summary, found.differences, look)),
  );
  return true;
}

async function write() {
  try {
    const { files } = await post("/api/export", {});
    $("written").replaceChildren(...files.map((f) => el("li", {}, f)));
  } catch (error) { tell(error.message); }
}

function ratingTables(summary, differences, look) {
  const rate = (name, r) => [name, r.num, r.abnormal, percent(r.rate), r.rate == null ? "–" : `${percent(r.low)} to ${percent(r.high)}`];
  const head = ["", "videos", "abnormal", "anomaly rate", "95 % interval"];
  const folders = Object.entries(summary.folders);
  const parts = [
    el("h2", {}, "Anomaly rate"),
    table(head, [rate("all videos, by majority", summary.all), ...(folders.length > 1 ? folders.map(([n, r]) => rate(n || "(top folder)", r)) : []),
      ...Object.entries(summary.raters).map(([n, r]) => rate(`rater ${n}`, r))]),
    el("h2", {}, "Agreement beyond chance"),
  ];
  const agreement = summary.agreement;
  if (agreement) {
    parts.push(el("p", { class: "note" }, `${agreement.num_shared} videos have two raters or more.`),
      table(["label", "Cohen's κ", "Krippendorff's α"], Object.keys(agreement.alpha).map((l) => [l, number(agreement.kappa[l]), number(agreement.alpha[l])])));
  } else parts.push(el("p", { class: "soft" }, "Two people have to rate the same video first."));
  const other = differences.filter((d) => d.differs.length);
  if (summary.judge) {
    parts.push(el("h2", {}, "People and judge"),
      el("p", { class: "note" }, `Same status on ${summary.judge.same_status} of ${summary.judge.compared} videos you have finished.`),
      table(["video", "people", "judge", "reward", "differs in", ""], other.map((d) => [
        d.video, d.people ?? "split", d.judge, reward(d.score), d.differs.join(", "),
        el("button", { type: "button", onclick: () => look(d.key) }, "Look")])));
  }
  return parts;
}

function reviewTables(summary) {
  const parts = [el("h2", {}, "By batch"), table(["batch", "accepted", "returned", "open", "share accepted", "95 % interval"],
    summary.batches.map((b) => [b.batch || "(none)", b.accepted, b.returned, b.open, percent(b.share), b.share == null ? "–" : `${percent(b.low)} to ${percent(b.high)}`]))];
  if (summary.alpha != null) parts.push(el("p", { class: "note" }, `Krippendorff's α between reviewers: ${number(summary.alpha)}`));
  if (summary.spot_check) {
    parts.push(el("h2", {}, "Spot check"), table(["batch", "checked", "agree", "share", "outcome"],
      summary.spot_check.batches.map((b) => [b.batch || "(none)", b.num_checked, b.num_agreed, percent(b.agreement), b.kept ? "kept" : "back to annotation"])));
  }
  return parts;
}

function table(head, rows) {
  const kind = (k, v) => (k === 0 ? "name" : typeof v === "number" || /^[-\d.–]+( %.*)?$/.test(v) ? "num" : "");
  const kinds = head.map((_, k) => kind(k, rows[0]?.[k] ?? ""));
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, head.map((h, k) => el("th", { class: kinds[k] }, h)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((v, k) => el("td", { class: kinds[k] }, v)))))));
}
