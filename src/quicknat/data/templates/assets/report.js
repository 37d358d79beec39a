"use strict";
// Tables of the report: sorted by a click on a heading, paged and searched where long, saved as TSV.
(() => {
  const DataTable = window.datatables.default;
  const PAGE = 50; // rows; no protocol's structures fill more

  const cellText = (cell) => cell.textContent.trim().replace(/\s+/g, " ");

  // what is shown now: after the search, in the order chosen, all pages
  function asText(table, data) {
    const head = [...table.tHead.rows[0].cells].map(cellText);
    const rows = data.rows({ search: "applied", order: "applied" }).nodes().toArray();
    return [head, ...rows.map((row) => [...row.cells].map(cellText))]
      .map((cells) => cells.join("\t")).join("\n") + "\n";
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
    const data = new DataTable(table, {
      order: [], // as the page gives it, which is by importance
      autoWidth: false,
      paging: long, searching: long, info: long, pageLength: PAGE,
      lengthMenu: [PAGE, 100, { label: "all", value: -1 }],
    });
    const button = document.createElement("button");
    button.type = "button";
    button.className = "tsv";
    button.textContent = "Save as TSV";
    const caption = table.caption && cellText(table.caption);
    button.setAttribute("aria-label", `Save as TSV: ${caption || table.dataset.name}`);
    button.addEventListener("click", () => save(table.dataset.name, asText(table, data)));
    table.closest(".scroll").after(button);
  }
})();
