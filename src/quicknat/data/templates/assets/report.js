"use strict";
// Tables of the report: sorted by a click on a heading, paged and searched where long, saved as TSV.
// Pictures of a scan: enlarged by a click on one.
(() => {
  const DataTable = window.datatables?.default; // not on pages whose tables are grouped
  const PAGE = 50; // rows; no protocol's structures fill more

  // numbers as programs read them: no thousands separators, an ASCII minus, n/a where there is none
  const cellText = (cell) => {
    const text = cell.dataset.title ?? cell.textContent.trim().replace(/\s+/g, " ");
    if (!cell.matches("td.n")) return text;
    return /^[-–]?$/.test(text) ? "n/a" : text.replace(/,/g, "").replace(/−/g, "-");
  };

  // what is shown now: after the search, in the order chosen, all pages
  function asText(table, data) {
    const rows = data ? data.rows({ search: "applied", order: "applied" }).nodes().toArray()
      : [...table.querySelectorAll("tbody tr:not(.group)")];
    const head = [...table.tHead.rows].at(-1);
    const cells = (row) => [...row.cells].flatMap((cell) => (
      [cellText(cell), ...Array(cell.colSpan - 1).fill("")]));
    return [head, ...rows].map((row) => cells(row).join("\t")).join("\n") + "\n";
  }

  function save(name, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/tab-separated-values" }));
    link.download = `${name}.tsv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // what must be scrolled sideways can be reached by keyboard, and then the arrow keys do that
  const width = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
    }
  });
  for (const wide of document.querySelectorAll(".scroll")) width.observe(wide);

  for (const table of document.querySelectorAll("table[data-name]")) {
    const long = table.tBodies[0].rows.length > PAGE;
    const data = DataTable && !table.classList.contains("grouped") ? new DataTable(table, {
      order: [], // as the page gives it, which is by importance
      autoWidth: false,
      paging: long, searching: long, info: long, pageLength: PAGE,
      lengthMenu: [PAGE, 100, { label: "all", value: -1 }],
    }) : null;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "tsv";
    button.textContent = "Save as TSV";
    const caption = table.caption && cellText(table.caption);
    button.setAttribute("aria-label", `Save as TSV: ${caption || table.dataset.name}`);
    button.addEventListener("click", () => save(table.dataset.name, asText(table, data)));
    table.closest(".scroll").after(button);
  }

  // a slice as large as the window, with the layers that are switched on; arrow keys turn slices
  const large = document.querySelector("dialog.enlarged");
  let tile = null;
  function enlarge(next) {
    if (!next?.matches(".tile")) return;
    tile = next;
    const copy = tile.cloneNode(true);
    copy.addEventListener("click", () => large.close());
    large.className = `enlarged ${tile.closest("figure").className}`;
    large.replaceChildren(copy);
    if (!large.open) large.showModal();
    copy.focus();
  }
  for (const one of large ? document.querySelectorAll(".tile") : []) {
    one.addEventListener("click", () => enlarge(one));
  }
  large?.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") enlarge(tile.nextElementSibling);
    if (event.key === "ArrowLeft") enlarge(tile.previousElementSibling);
  });
  large?.addEventListener("click", (event) => { if (event.target === large) large.close(); });
  large?.addEventListener("close", () => tile.focus());
})();
