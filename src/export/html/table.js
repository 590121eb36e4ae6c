/* A table that sorts and filters any number of rows and makes elements only for
   those that are asked for. */

const PAGE = 200;

class Table {
  /* `columns`: { key, label, isText, value(row), fill(cell, row) }.
     `options`: { sort, searched(row), detail(cell, row), name }. */
  constructor(root, columns, rows, options) {
    this.root = root;
    this.columns = columns;
    this.all = rows;
    this.options = options;
    this.sort = options.sort;
    this.isDescending = true;
    this.wanted = "";
    this.shown = PAGE;
    this.table = element("table");
    this.table.append(element("caption", "", options.name));
    this.more = element("button", "more");
    this.more.type = "button";
    this.more.addEventListener("click", () => {
      this.shown += PAGE;
      this.fill();
    });
    this.empty = element("p", "empty", "No row matches the filter.");
    this.body = element("tbody");
    this.table.append(this.head(), this.body);
    root.append(this.table, this.empty, this.more);
    this.update();
  }

  head() {
    const line = element("tr");
    this.heads = this.columns.map((column) => {
      const head = element("th", column.isText ? "text" : "number");
      head.scope = "col";
      const button = element("button", "", column.label);
      button.type = "button";
      button.addEventListener("click", () => this.sortBy(column.key));
      head.append(button);
      line.append(head);
      return head;
    });
    const head = element("thead");
    head.append(line);
    return head;
  }

  sortBy(key) {
    const column = this.columns.find((c) => c.key === key);
    this.isDescending = this.sort === key ? !this.isDescending : !column.isText;
    this.sort = key;
    this.update();
  }

  filter(wanted) {
    this.wanted = wanted.trim().toLowerCase();
    this.shown = PAGE;
    this.update();
  }

  update() {
    const column = this.columns.find((c) => c.key === this.sort);
    const { searched } = this.options;
    this.rows = this.wanted
      ? this.all.filter((row) => searched(row).toLowerCase().includes(this.wanted))
      : [...this.all];
    const sign = this.isDescending ? -1 : 1;
    const keyed = this.rows.map((row, i) => ({ row, i, value: column.value(row) }));
    keyed.sort((a, b) => {
      /* What is not known comes last, whichever way. */
      if (a.value === null || b.value === null) {
        return (a.value === null) - (b.value === null) || a.i - b.i;
      }
      if (a.value === b.value) return a.i - b.i;
      return a.value < b.value ? -sign : sign;
    });
    this.rows = keyed.map((one) => one.row);
    this.columns.forEach((c, i) => {
      const order = this.isDescending ? "descending" : "ascending";
      this.heads[i].setAttribute("aria-sort", c.key === this.sort ? order : "none");
    });
    this.fill();
  }

  fill() {
    const rows = this.rows.slice(0, this.shown);
    this.body.replaceChildren(...rows.map((row) => this.line(row)));
    const left = this.rows.length - rows.length;
    this.more.hidden = left === 0;
    const next = text.count(Math.min(PAGE, left));
    this.more.textContent = "Show " + next + " more of " + text.count(left);
    this.empty.hidden = this.rows.length > 0;
    this.root.dataset.rows = String(this.rows.length);
  }

  line(row) {
    const line = element("tr");
    this.columns.forEach((column, i) => {
      const cell = element(i === 0 ? "th" : "td", column.isText ? "text" : "number");
      if (i === 0) cell.scope = "row";
      cell.dataset.label = column.label;
      column.fill(cell, row);
      line.append(cell);
    });
    if (this.options.detail) this.expands(line, row);
    return line;
  }

  /* The first cell's button opens a row below with the details. */
  expands(line, row) {
    const button = line.querySelector("button");
    button.setAttribute("aria-expanded", "false");
    let detail = null;
    button.addEventListener("click", () => {
      if (detail) {
        detail.remove();
        detail = null;
      } else {
        detail = element("tr", "detail");
        const cell = element("td");
        cell.colSpan = this.columns.length;
        this.options.detail(cell, row);
        detail.append(cell);
        line.after(detail);
      }
      button.setAttribute("aria-expanded", String(detail !== null));
    });
  }
}

/* The places where the program's own code asked for memory, each with its stacks. */
function siteTable(root, model, reveal) {
  const place = {
    key: "place",
    label: "Site",
    isText: true,
    value: (row) => model.location(row.frame) || model.name(row.frame),
    fill(cell, row) {
      const button = element("button", "place");
      button.type = "button";
      const origin = model.origin(row.frame);
      button.append(element("i", "swatch " + origin));
      const where = model.location(row.frame);
      const words = element("span", "words");
      words.append(element("span", "where", where || "no file known"));
      words.append(element("span", "function", model.name(row.frame)));
      button.append(words);
      cell.append(button);
    },
  };
  const figure = (measure, label) => ({
    key: measure.key,
    label,
    value: (row) => row[measure.key],
    fill(cell, row) {
      const value = row[measure.key];
      if (model.isSampled && value === 0) {
        cell.textContent = DASH;
        cell.title = "no sample";
        return;
      }
      cell.append(element("span", "value", measure.show(value)));
      cell.title = measure.full(value);
      if (model.isSampled) {
        const error = row[measure.key + "_error"];
        cell.append(element("span", "error", "± " + measure.showError(error)));
      }
    },
  });
  const labels = ["Live", "Live blocks", "Peak", "Peak blocks", "Total", "Total blocks"];
  const life = {
    key: "mean",
    label: "Mean life",
    value: (row) => row.mean,
    fill(cell, row) {
      cell.textContent = text.time(row.mean);
      cell.title =
        row.mean === null
          ? "none of its blocks was freed"
          : text.count(row.freed) + " freed, the longest after " + text.time(row.longest);
    },
  };
  const columns = [place, ...MEASURES.map((measure, i) => figure(measure, labels[i])), life];
  return new Table(root, columns, model.places(), {
    name: "Sites, where the program's own code asked for memory",
    sort: model.opening + "_bytes",
    searched: (row) => model.name(row.frame) + " " + (model.location(row.frame) || ""),
    detail: (cell, row) => siteDetail(cell, row, model, reveal),
  });
}

const STACKS = 5;

/* The stacks of a place, largest first, a few at a time. */
function siteDetail(cell, row, model, reveal) {
  const sites = model.data.sites;
  const by = (key) => (a, b) => sites[key][b] - sites[key][a];
  const first = by(model.opening + "_bytes");
  const order = [...row.sites].sort((a, b) => first(a, b) || by("total_bytes")(a, b));
  const more = element("button", "more");
  more.type = "button";
  let shown = 0;
  const show = () => {
    for (const site of order.slice(shown, shown + STACKS)) {
      more.before(siteStack(site, model, reveal));
    }
    shown += STACKS;
    more.hidden = shown >= order.length;
    more.textContent = "Show more of " + text.count(order.length) + " stacks";
  };
  cell.append(more);
  more.addEventListener("click", show);
  show();
}

function siteStack(site, model, reveal) {
  const { sites } = model.data;
  const box = element("div", "stack");
  const sums = element("p", "sums");
  for (const [what, word] of [["live", "live"], ["peak", "at the peak"], ["total", "in all"]]) {
    const parts = MEASURES.filter((measure) => measure.what === what).map((measure) => {
      const error = model.isSampled ? sites[measure.key + "_error"][site] : null;
      const value = sites[measure.key][site];
      const shown = model.estimate(measure, value, error);
      return measure.unit === "blocks" ? shown + (value === 1 ? " block" : " blocks") : shown;
    });
    sums.append(element("span", "", word + " " + parts.join(", ")));
  }
  const list = element("ol");
  for (let node = sites.node[site]; node > 0; node = model.callers.parent[node]) {
    const frame = model.callers.frame[node];
    const line = element("li");
    line.append(element("i", "swatch " + model.origin(frame)));
    const words = element("span", "words");
    words.append(element("span", "function", model.name(frame)));
    const where = model.location(frame);
    if (where) words.append(element("span", "where", where));
    if (model.data.frames.inlined[frame]) words.append(element("span", "inlined", "inlined"));
    line.append(words);
    list.append(line);
  }
  const button = element("button", "", "Show in the flame graph");
  button.type = "button";
  button.addEventListener("click", () => reveal(sites.node[site]));
  box.append(sums, list, button);
  return box;
}

function threadTable(root, model) {
  const threads = model.data.threads;
  const rows = threads.name.map((name, i) => ({ name, i }));
  const most = Math.max(...threads.allocated_bytes, 0);
  const figure = (key, label, show, hasBar) => ({
    key,
    label,
    value: (row) => threads[key][row.i],
    fill(cell, row) {
      const value = threads[key][row.i];
      cell.append(element("span", "value", show(value)));
      cell.title = text.count(value);
      if (!hasBar || most === 0) return;
      const bar = element("i", "share-bar");
      bar.style.width = (100 * value) / most + "%";
      cell.append(bar);
    },
  });
  const name = {
    key: "name",
    label: "Thread",
    isText: true,
    value: (row) => row.name,
    fill(cell, row) {
      cell.append(element("span", "", row.name || "without a name"));
      const id = threads.id[row.i];
      cell.append(element("span", "where", id === 0 ? "ended, or not seen by the recorder" : "id " + id));
    },
  };
  const columns = [
    name,
    figure("allocated_bytes", "Allocated", text.bytes, true),
    figure("allocations", "Allocations", text.count),
    figure("freed_bytes", "Freed", text.bytes),
    figure("frees", "Frees", text.count),
  ];
  const searched = (row) => row.name;
  return new Table(root, columns, rows, {
    name: "What each thread has done, counted exactly",
    sort: "allocated_bytes",
    searched,
  });
}
