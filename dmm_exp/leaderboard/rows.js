// The leaderboard of all rows: tables are sorted, a cell opens, two methods stand against each other.
(() => {
  const { cells, better } = JSON.parse(document.getElementById("rows").textContent);
  const make = (kind, text, parent, look) => {
    const made = document.createElement(kind);
    made.textContent = text;
    if (look) made.className = look;
    return parent.appendChild(made);
  };
  const written = (value, digits = 2) =>
    value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");

  // Sorting: what has no number stays at the end, and so do references; the floor stays first.
  const sort = (head) => {
    const table = head.closest("table");
    const place = [...head.parentNode.children].indexOf(head);
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => {
      const cell = row.children[place];
      return cell.dataset.key === undefined ? cell.textContent.trim() : cell.dataset.key === "" ? null : +cell.dataset.key;
    };
    const last = (row) => (row.classList.contains("aside") ? 1 : 0);
    const body = table.tBodies[0];
    const rows = [...body.rows].filter((row) => row.dataset.fixed === undefined);
    rows.sort((one, other) => {
      const [a, b] = [key(one), key(other)];
      if (last(one) !== last(other)) return last(one) - last(other);
      if (a === null || b === null) return (a === null) - (b === null);
      return (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1);
    });
    body.append(...rows);
  };
  for (const head of document.querySelectorAll("th[data-sort]")) {
    head.addEventListener("click", () => sort(head));
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        sort(head);
      }
    });
  }

  // A cell: its scores with floors and intervals, its settings, its command.
  const dialog = document.getElementById("cell");
  const lines = (rows, parent) => {
    const table = make("table", "", make("div", "", parent, "scroll"));
    for (const [place, row] of rows.entries()) {
      const line = make("tr", "", table);
      for (const [column, text] of row.entries()) make(place && column ? "td" : "th", text, line);
    }
  };
  const tell = (cell, place) => {
    place.replaceChildren();
    const sizes = Object.entries(cell.points).map(([name, count]) => `${count} ${name}`);
    make("p", `${cell.forget}: ${sizes.join(", ")} points; run ${cell.id}`, place, "small");
    if (cell.link) {
      const link = make("a", cell.link.endsWith(".html") ? "the run's report, with its points" : "the run's points", make("p", "", place));
      link.href = cell.link;
    }
    const scores = Object.entries(cell.scores).map(([name, [value, low, high, floor]]) => [
      name + (better[name] ? (better[name] === "lower" ? " ↓" : " ↑") : ""),
      written(value, 3),
      low === null ? "–" : `${written(low, 3)} to ${written(high, 3)}`,
      written(floor, 3),
    ]);
    make("h3", "Scores", place);
    lines([["", "value", "95 % interval", "floor"], ...scores], place);
    if (Object.keys(cell.cost).length) {
      make("h3", "Cost", place);
      lines([["", ""], ...Object.entries(cell.cost).map(([name, value]) => [name.replaceAll("_", " "), String(value)])], place);
    }
    if (Object.keys(cell.settings).length) {
      make("h3", cell.from ? `Settings, from experiment=${cell.from}` : "Settings", place);
      lines([["", ""], ...Object.entries(cell.settings)], place);
    }
    make("h3", cell.given ? "Models that were made elsewhere" : "Command", place);
    make("pre", cell.command, place);
    if (cell.made) make("p", `Made with ${cell.made}.`, place, "small");
  };
  const open = (found) => {
    dialog.replaceChildren();
    const close = make("button", "close", dialog, "close");
    close.addEventListener("click", () => dialog.close());
    make("h2", `${found[0].method} on ${found[0].board}, ${found[0].kind}`, dialog);
    const place = document.createElement("div");
    if (found.length > 1) {
      const choice = make("select", "", dialog);
      choice.setAttribute("aria-label", "forget set");
      for (const cell of found) make("option", cell.forget, choice);
      choice.addEventListener("change", () => tell(found[choice.selectedIndex], place));
    }
    dialog.appendChild(place);
    tell(found[0], place);
    dialog.showModal();
    dialog.scrollTop = 0;
  };
  addEventListener("click", (event) => {
    const pressed = event.target.closest?.("button.cell");
    if (event.target === dialog) dialog.close();
    if (!pressed) return;
    const { board, method, kind } = pressed.dataset;
    open(cells.filter((cell) => cell.board === board && cell.method === method && cell.kind === kind));
  });

  // One against another.
  const [one, other, of] = ["one", "other", "of"].map((id) => document.getElementById(id));
  const distinct = (name) => [...new Set(cells.map((cell) => cell[name]))].sort();
  for (const method of distinct("method")) for (const choice of [one, other]) make("option", method, choice);
  for (const board of ["all", ...distinct("board")]) make("option", board, of);
  // At first, the two that the first table ranks best.
  const [first, second] = [...document.querySelectorAll("table.board tbody th")].map((head) => head.firstChild.textContent.trim());
  one.value = first;
  other.value = second ?? first;
  const table = document.getElementById("against");
  const compare = () => {
    const head = table.tHead;
    const body = table.tBodies[0];
    head.replaceChildren();
    body.replaceChildren();
    const names = make("tr", "", head);
    for (const text of ["forget set", one.value, other.value, "difference", "floor"]) make("th", text, names);
    const counts = { better: 0, worse: 0, clear: 0 };
    const mean = (cell, part) => {
      const found = ["forget", "retain", "val"].map((group) => cell.scores[`klom/${group}/p95`][part]);
      return found.includes(null) ? null : found.reduce((sum, value) => sum + value, 0) / 3;
    };
    for (const a of cells) {
      if (a.method !== one.value || (of.value !== "all" && a.board !== of.value)) continue;
      const b = cells.find((cell) => cell.method === other.value && ["board", "kind", "forget"].every((name) => cell[name] === a[name]));
      if (!b) continue;
      const [, lowA, highA] = a.scores["klom/forget/p95"];
      const [, lowB, highB] = b.scores["klom/forget/p95"];
      const clear = lowA !== null && lowB !== null && (highA < lowB || highB < lowA);
      const difference = a.score - b.score;
      counts.better += difference < 0;
      counts.worse += difference > 0;
      counts.clear += clear;
      const line = make("tr", "", body);
      const label = make("th", a.forget, line);
      make("span", `${a.board}, ${a.kind}`, label, "note");
      make("td", written(a.score), line, difference < 0 ? "win" : "");
      make("td", written(b.score), line, difference > 0 ? "win" : "");
      make("td", `${difference > 0 ? "+" : ""}${written(difference)}`, line, clear ? "win" : "");
      make("td", written(mean(a, 3)), line);
    }
    document.getElementById("sums").textContent = body.rows.length
      ? `${one.value} is better on ${counts.better} and worse on ${counts.worse} of ${body.rows.length} forget sets; on ${counts.clear} the intervals do not overlap.`
      : "There is no forget set that both have.";
  };
  for (const choice of [one, other, of]) choice.addEventListener("change", compare);
  compare();
})();
