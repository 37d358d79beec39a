"use strict";
// The montage of a cohort: order, filters, and ratings, kept in this browser and saved as TSV.
(() => {
  const RATINGS = ["pass", "doubtful", "fail"];
  const PAGE = 12; // scans shown at first
  const montage = document.querySelector(".montage");
  const part = (name) => document.querySelector(`[data-montage="${name}"]`);
  const tiles = [...montage.children];
  const byScan = new Map(tiles.map((tile) => [tile.dataset.scan, tile]));
  // per folder and model: another model's segmentations have to be rated again
  const folder = location.pathname.replace(/[^/]*$/, "");
  const key = `quicknat-ratings:${folder}:${montage.dataset.model}`;
  let shown = PAGE;
  let ratings = {}; // scan: {rating, note}
  try { ratings = JSON.parse(localStorage.getItem(key)) || {}; } catch { /* none, or no storage */ }

  function keep(scan, change) {
    ratings[scan] = { rating: "", note: "", ...ratings[scan], ...change };
    if (!ratings[scan].rating && !ratings[scan].note) delete ratings[scan];
    try { localStorage.setItem(key, JSON.stringify(ratings)); } catch { /* saved as TSV only */ }
    paint(byScan.get(scan));
    count();
  }

  function controls(tile) {
    const { scan } = tile.dataset;
    const box = document.createElement("div");
    box.className = "rate";
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", `Rating of ${scan}`);
    for (const rating of RATINGS) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = rating;
      button.dataset.rating = rating;
      button.addEventListener("click", () => {
        keep(scan, { rating: ratings[scan]?.rating === rating ? "" : rating });
      });
      box.append(button);
    }
    const note = document.createElement("input");
    note.placeholder = "note";
    note.autocomplete = "off";
    note.setAttribute("aria-label", `Note on ${scan}`);
    note.addEventListener("change", () => keep(scan, { note: note.value.trim() }));
    box.append(note);
    tile.append(box);
  }

  function paint(tile) {
    const own = ratings[tile.dataset.scan] || { rating: "", note: "" };
    tile.dataset.rated = own.rating;
    for (const button of tile.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.rating === own.rating));
    }
    const note = tile.querySelector("input");
    if (note && note.value !== own.note) note.value = own.note;
  }

  const wanted = {
    "": () => true,
    flags: (tile) => tile.dataset.flags,
    outliers: (tile) => tile.dataset.outliers,
    unrated: (tile) => !tile.dataset.rated,
    doubtful: (tile) => tile.dataset.rated === "doubtful",
    fail: (tile) => tile.dataset.rated === "fail",
  };
  const order = {
    "": () => 0,
    uncertainty: (a, b) => b.dataset.uncertainty - a.dataset.uncertainty,
    dice: (a, b) => (a.dataset.dice ?? 2) - (b.dataset.dice ?? 2),
    scan: (a, b) => a.dataset.scan.localeCompare(b.dataset.scan, undefined, { numeric: true }),
  };

  function show() {
    const text = part("find").value.trim().toLowerCase();
    const found = [...tiles].sort(order[part("order").value])
      .filter(wanted[part("filter").value])
      .filter((tile) => tile.dataset.scan.toLowerCase().includes(text));
    for (const tile of tiles) tile.hidden = true;
    for (const tile of found.slice(0, shown)) {
      tile.hidden = false;
      montage.append(tile);
      if (!tile.querySelector(".rate")) {
        controls(tile);
        paint(tile);
      }
    }
    part("more").parentElement.hidden = found.length <= shown;
    part("more").textContent = `Show more (${Math.min(shown, found.length)} of ${found.length} are shown)`;
    count(found.length);
  }

  let matching = 0;
  function count(found = matching) {
    matching = found;
    const rated = tiles.filter((tile) => tile.dataset.rated).length;
    part("count").textContent = `${matching} of ${tiles.length} scans; ${rated} rated`;
  }

  function save() {
    const clean = (text) => text.replace(/\s+/g, " ");
    const rows = Object.entries(ratings)
      .map(([scan, own]) => [scan, own.rating || "n/a", clean(own.note) || "n/a", montage.dataset.model]);
    const lines = [["scan", "rating", "note", "model"], ...rows].map((row) => row.join("\t"));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/tab-separated-values" }));
    link.download = "ratings.tsv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  async function load(file) {
    const [head, ...rows] = (await file.text()).replace(/\r/g, "").split("\n").map((line) => line.split("\t"));
    const [scan, rating, note, model] = ["scan", "rating", "note", "model"].map((name) => head.indexOf(name));
    const known = rows.filter((row) => byScan.has(row[scan]) && [...RATINGS, "n/a"].includes(row[rating]));
    const own = ["", "n/a", undefined, montage.dataset.model]; // files of other programs name no model
    const usable = known.filter((row) => own.includes(row[model]));
    for (const row of usable) {
      const given = { rating: row[rating], note: row[note] };
      keep(row[scan], Object.fromEntries(Object.entries(given).filter(([, text]) => text && text !== "n/a")));
    }
    show();
    part("count").textContent = `${usable.length} ratings read from ${file.name}${
      usable.length < known.length ? `; ${known.length - usable.length} of another model left out` : ""}`;
  }

  const again = () => { shown = PAGE; show(); };
  for (const name of ["order", "filter"]) part(name).addEventListener("change", again);
  part("find").addEventListener("input", again);
  part("more").addEventListener("click", () => { shown += 4 * PAGE; show(); });
  part("save").addEventListener("click", save);
  part("load").addEventListener("change", (event) => {
    if (event.target.files.length) load(event.target.files[0]);
    event.target.value = "";
  });
  for (const tile of tiles) tile.dataset.rated = ratings[tile.dataset.scan]?.rating || "";
  for (const tools of document.querySelectorAll(".montage-tools")) tools.hidden = false;
  show();
})();
