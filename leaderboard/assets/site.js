// Search, sort, filters with state in the address, copy buttons, theme, charts. No framework, no network.
(function () {
  "use strict";
  const root = document.documentElement;
  const all = (selector, within) => Array.from((within || document).querySelectorAll(selector));
  const say = (text) => { document.getElementById("announce").textContent = text; };

  // --- theme ---------------------------------------------------------------------------------------------
  const redraws = [];
  const toggle = document.querySelector("[data-theme-toggle]");
  const showTheme = () => { toggle.querySelector("span").textContent = root.dataset.theme || "auto"; };
  toggle.hidden = false;
  showTheme();
  toggle.addEventListener("click", () => {
    const next = { auto: "light", light: "dark", dark: "auto" }[root.dataset.theme || "auto"];
    if (next === "auto") delete root.dataset.theme; else root.dataset.theme = next;
    try { localStorage.setItem("theme", next); } catch (error) { /* closed to local files: holds for this page */ }
    showTheme();
    redraws.forEach((draw) => draw());
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraws.forEach((draw) => draw()));

  // --- copy ----------------------------------------------------------------------------------------------
  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch (error) {
      const area = document.createElement("textarea");
      area.value = text;
      area.className = "visually-hidden";
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      if (!done) throw error;
    }
  }
  for (const button of all("button[data-copy]")) button.hidden = false;
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    const label = button.firstChild;
    const text = button.parentElement.querySelector("code").textContent;
    try {
      await copy(text);
      label.textContent = "Copied";
      say("Copied: " + text);
    } catch (error) {
      label.textContent = "Select it";
      getSelection().selectAllChildren(button.parentElement.querySelector("code"));
    }
    setTimeout(() => { label.textContent = "Copy"; }, 1600);
  });

  // --- tables: sort, filter, columns, address ------------------------------------------------------------
  const address = () => new URLSearchParams(location.search);
  function remember(changes) {
    const params = address();
    for (const [key, value] of Object.entries(changes)) if (value) params.set(key, value); else params.delete(key);
    const query = params.toString();
    try { history.replaceState(null, "", (query ? "?" + query : location.pathname.split("/").pop()) + location.hash); }
    catch (error) { /* some browsers keep the address of local files as it is */ }
  }
  const valueOf = (row, index) => {
    const cell = row.cells[index];
    return cell.dataset.value !== undefined ? cell.dataset.value : cell.textContent.trim();
  };

  function sortable(table) {
    const heads = all("thead th", table);
    const body = table.tBodies[0];
    const original = Array.from(body.rows);
    const sort = (index, direction) => {
      heads.forEach((head, i) => { if (i === index && direction) head.setAttribute("aria-sort", direction); else head.removeAttribute("aria-sort"); });
      const rows = original.slice();
      if (direction) {
        const numeric = heads[index].dataset.sort === "number";
        const sign = direction === "ascending" ? 1 : -1;
        rows.sort((a, b) => {
          const x = valueOf(a, index), y = valueOf(b, index);
          if (!numeric) return sign * x.localeCompare(y);
          const u = parseFloat(x), v = parseFloat(y);
          if (Number.isNaN(u) || Number.isNaN(v)) return Number.isNaN(u) - Number.isNaN(v); // no number goes last
          return sign * (u - v);
        });
      }
      body.append(...rows);
    };
    heads.forEach((head, index) => {
      if (!head.dataset.sort) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...Array.from(head.childNodes).filter((node) => node.nodeName.toLowerCase() !== "svg"));
      head.prepend(button);
      button.addEventListener("click", () => {
        const first = head.dataset.sort === "number" ? "descending" : "ascending";
        const second = first === "ascending" ? "descending" : "ascending";
        const now = head.getAttribute("aria-sort");
        const next = !now ? first : now === first ? second : "";
        sort(index, next);
        if (table.id === "papers" || table.id === "costs") remember({ sort: next ? (next === "descending" ? "-" : "") + index : "" });
      });
    });
    const wanted = address().get("sort");
    const match = /^(-?)(\d{1,2})$/.exec(wanted || "");
    if (match && heads[+match[2]] && heads[+match[2]].dataset.sort) sort(+match[2], match[1] ? "descending" : "ascending");
  }
  all("table[data-sortable]").forEach(sortable);

  function filterable(form) {
    const table = document.getElementById(form.dataset.filters);
    const rows = Array.from(table.tBodies[0].rows);
    const fields = all("input[name], select[name]", form);
    const empty = document.querySelector(".empty");
    const count = form.querySelector(".count");
    form.hidden = false;
    const params = address();
    for (const field of fields) {
      const value = params.get(field.name) || "";
      if (field.tagName !== "SELECT" || Array.from(field.options).some((o) => o.value === value)) field.value = value;
    }
    const apply = () => {
      const want = Object.fromEntries(fields.map((f) => [f.name, f.value]));
      const words = (want.q || "").toLowerCase().split(/\s+/).filter(Boolean);
      const narrow = want.verdict || want.scale || want.kind || want.stale;
      let visible = 0;
      for (const row of rows) {
        let fits = words.every((word) => row.dataset.text.includes(word)) && (!want.area || row.dataset.area === want.area);
        let hit = false;
        for (const mark of all("[data-mark]", row)) {
          const ok = (!want.verdict || mark.dataset.verdict === want.verdict) && (!want.scale || mark.dataset.scale === want.scale) &&
            (!want.kind || mark.dataset.kind === want.kind) && (!want.stale || (want.stale === "yes") === mark.hasAttribute("data-stale"));
          mark.classList.toggle("dim", Boolean(narrow) && !ok);
          hit = hit || ok;
        }
        fits = fits && (!narrow || hit);
        row.hidden = !fits;
        visible += fits;
      }
      count.textContent = visible === rows.length ? rows.length + (rows.length === 1 ? " row" : " rows") : visible + " of " + rows.length + " rows";
      if (empty) empty.hidden = visible > 0;
      return want;
    };
    apply();
    form.addEventListener("input", () => remember(apply()));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => { fields.forEach((f) => { f.value = ""; }); remember(apply()); }));

    const box = form.querySelector(".columns fieldset");
    if (!box) return;
    const heads = all("thead th[data-column]", table);
    const asked = params.get("columns");
    const shown = new Set(asked !== null ? asked.split(",") : heads.filter((h) => h.dataset.default !== "off").map((h) => h.dataset.column));
    const showColumns = () => {
      for (const head of heads) {
        const on = head.hasAttribute("data-fixed") || shown.has(head.dataset.column);
        all('[data-column="' + head.dataset.column + '"]', table).forEach((cell) => { cell.hidden = !on; });
      }
    };
    for (const head of heads) {
      if (head.hasAttribute("data-fixed")) continue;
      const label = document.createElement("label");
      const input = document.createElement("input");
      input.type = "checkbox";
      input.value = head.dataset.column;
      input.checked = shown.has(head.dataset.column);
      input.addEventListener("change", (event) => {
        event.stopPropagation();
        if (input.checked) shown.add(input.value); else shown.delete(input.value);
        showColumns();
        remember({ columns: heads.map((h) => h.dataset.column).filter((c) => shown.has(c)).join(",") });
      });
      label.append(input, (head.querySelector("button") || head).textContent);
      box.append(label);
    }
    showColumns();
  }
  all("form[data-filters]").forEach(filterable);

  // --- records chosen by the row that links here ------------------------------------------------------------
  const chosen = (address().get("arms") || "").split(",").filter(Boolean);
  const seeds = (address().get("seeds") || "").split(",").filter(Boolean);
  const records = document.getElementById("records");
  if (records && chosen.length) {
    const rows = Array.from(records.tBodies[0].rows);
    const hits = rows.filter((row) => chosen.includes(row.dataset.arm) && (!seeds.length || seeds.includes(row.dataset.seed)));
    hits.forEach((row) => row.classList.add("chosen"));
    const note = document.querySelector(".selection");
    note.textContent = "Highlighted: " + hits.length + " records of " + chosen.join(", ") + ".";
    note.hidden = false;
  }

  // --- a link into closed details opens them ----------------------------------------------------------------
  function reveal() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const closed = target.closest("details:not([open])");
    if (closed) {
      closed.open = true;
      target.scrollIntoView();
    }
    all(".found").forEach((e) => e.classList.remove("found"));
    target.classList.add("found");
    if (target.tabIndex === -1 && target.id !== "content") target.focus({ preventScroll: true });
  }
  addEventListener("hashchange", reveal);
  reveal();

  // --- charts -----------------------------------------------------------------------------------------------
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  // light-dark() stays unresolved in custom properties; a probe element resolves it.
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => { probe.style.color = "var(" + name + ")"; return getComputedStyle(probe).color; };
  const VERDICTS = ["reproduced", "partly", "contradicted", "inconclusive", "unfair", "untested", "mixed"];
  const isDark = () => root.dataset.theme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  // Okabe and Ito's palette, darkened or lightened to keep 3:1 against the page.
  const palette = () => isDark()
    ? ["#6cbbe8", "#f0a860", "#5cc4b8", "#e58fb5", "#e0d36a", "#b9a5f0", "#f09265", "#b3b6ba"]
    : ["#0a5f8a", "#b4560a", "#0f6a63", "#a8457a", "#7d6b00", "#5b4bb0", "#8a2f12", "#5d5f63"];
  const DASHES = [[1, 0], [8, 3], [14, 3, 4, 3], [4, 3], [16, 4], [9, 3, 3, 3, 3, 3]];

  let vega;
  function library() {
    vega = vega || new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = document.body.dataset.root + "assets/" + document.body.dataset.vega;
      script.addEventListener("load", () => resolve(window.vegaEmbed));
      script.addEventListener("error", () => reject(new Error("the chart library did not load")));
      document.head.append(script);
    });
    return vega;
  }
  function config() {
    const ink = colour("--ink"), soft = colour("--soft"), line = colour("--line"), font = css("--sans");
    return {
      background: "transparent", font,
      view: { stroke: null },
      axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 400, labelLimit: 300 },
      axisY: { labelColor: ink },
      header: { labelColor: ink, labelFontSize: 13, labelFontWeight: 600, labelLimit: 640 },
      legend: { labelColor: ink, titleColor: soft, labelFontSize: 12, labelLimit: 260, symbolSize: 90 },
      rule: { color: colour("--strong") },
      point: { color: ink },
      range: { category: palette() },
    };
  }
  async function draw(plot, spec) {
    const embed = await library();
    const result = await embed(plot, Object.assign({}, spec, { config: config() }), {
      actions: false, ast: true, logLevel: 1, renderer: "svg", defaultStyle: false, tooltip: { disableDefaultStyle: true },
    });
    if (plot.view) plot.view.finalize();
    plot.view = result.view;
    // The plot's own label says it; the drawing's many parts would only be read out one by one.
    all("svg", plot).forEach((svg) => svg.setAttribute("aria-hidden", "true"));
    all("[aria-label], [role]", plot).forEach((e) => { e.removeAttribute("aria-label"); e.removeAttribute("role"); e.removeAttribute("aria-roledescription"); });
    plot.dataset.drawn = "yes";
  }
  const failed = (plot) => (error) => { plot.textContent = "This chart could not be drawn (" + error.message + "). The table holds the same numbers."; };
  function lazily(element, render) {
    let seen = false;
    const again = () => { if (seen) render(); };
    redraws.push(again);
    let wide = innerWidth, timer;
    addEventListener("resize", () => {
      if (innerWidth === wide) return;
      wide = innerWidth;
      clearTimeout(timer);
      timer = setTimeout(again, 200);
    });
    addEventListener("beforeprint", () => { if (!seen) { seen = true; render(); } });
    new IntersectionObserver((entries, observer) => {
      if (!entries.some((e) => e.isIntersecting)) return;
      observer.disconnect();
      seen = true;
      render();
    }, { rootMargin: "400px" }).observe(element);
    return again;
  }
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const room = (plot, most) => Math.max(160, Math.min(most, plot.clientWidth));

  for (const figure of all("figure[data-chart]")) {
    const plot = figure.querySelector(".plot");
    lazily(figure, () => {
      const spec = read(figure.dataset.chart);
      const narrow = plot.clientWidth < 560;
      spec.width = room(plot, 900) - (narrow ? 165 : 330);
      const paint = { domain: VERDICTS, range: VERDICTS.map((v) => colour("--" + v)) };
      for (const layer of spec.layer) {
        if (layer.encoding.color) layer.encoding.color.scale = paint;
        if (layer.encoding.y) layer.encoding.y.scale = { domain: spec.usermeta.lines };
        if (layer.mark.type === "text") Object.assign(layer.mark, { color: colour("--ink"), limit: spec.width });
        if (narrow && layer.encoding.y && layer.encoding.y.axis) layer.encoding.y.axis.labelLimit = 140;
        if (narrow && layer.encoding.x.title) layer.encoding.x.title = layer.encoding.x.title.split(";")[0];
      }
      draw(plot, spec).catch(failed(plot));
    });
  }

  for (const section of all("[data-explorer]")) explore(section, read(section.dataset.explorer));

  function explore(section, data) {
    const pick = (name) => section.querySelector("select[data-" + name + "]");
    const place = pick("place"), axis = pick("cost");
    const plots = { curves: all(".curves .plot", section), tradeoff: section.querySelector(".tradeoff .plot"), heat: section.querySelector(".heat .plot") };
    const box = section.querySelector("fieldset.arms");
    section.querySelector(".controls").hidden = false;
    for (const [key, cost] of Object.entries(data.costs)) {
      if (Object.values(data.places).some((p) => p.points.some((q) => q[key] !== undefined))) axis.append(new Option(cost.title, key));
    }
    if (!axis.options.length) axis.parentElement.hidden = true;
    axis.value = axis.querySelector('[value="train_flops"]') ? "train_flops" : (axis.options[0] || {}).value;
    const on = new Set(data.first);
    const known = () => Object.keys(data.arms).filter((a) => data.places[place.value].curves.arms[a]);

    function choices() {
      all("label", box).forEach((l) => l.remove());
      for (const arm of known()) {
        const label = document.createElement("label"), input = document.createElement("input");
        input.type = "checkbox";
        input.checked = on.has(arm);
        input.addEventListener("change", () => { if (input.checked) on.add(arm); else on.delete(arm); curves(); tradeoff(); });
        label.append(input, data.arms[arm].title);
        box.append(label);
      }
      box.hidden = !known().length;
    }
    function curves() {
      const figure = plots.curves[0].closest("figure");
      figure.hidden = !known().length;
      if (figure.hidden) return;
      for (const plot of plots.curves) {
        const arms = data.places[place.value].curves.arms;
        plot.hidden = plot.dataset.mode === "rel" && !known().some((a) => on.has(a) && arms[a].rel);
        if (!plot.hidden) curvesIn(plot, plot.dataset.mode);
      }
    }
    function curvesIn(plot, mode) {
      const here = data.places[place.value].curves;
      const names = known().filter((a) => on.has(a));
      const titles = names.map((a) => data.arms[a].title);
      const ours = [], theirs = [];
      names.forEach((arm, i) => {
        for (const [x, y, lo, hi] of here.arms[arm][mode] || []) ours.push({ x, y, lo, hi, arm: titles[i] });
        const published = data.published[arm];
        for (const [x, y] of (published && published[mode]) || []) if (y !== null) theirs.push({ x, y, arm: titles[i], run: "authors: " + published.title });
      });
      // The first steps swing widely; the axis shows where the curves settle.
      const late = ours.filter((p) => p.x > 12).flatMap((p) => [p.y, p.lo, p.hi]).concat(theirs.filter((p) => p.x > 12).map((p) => p.y), mode === "rel" ? [0] : []).filter((v) => v !== null && v !== undefined);
      const log = mode === "abs" && late.length > 0 && late.every((v) => v > 0);
      const low = Math.min(...late), high = Math.max(...late), pad = 0.06 * (high - low || 1);
      const domain = !late.length ? undefined : log ? [low * 0.97, high * 1.03] : [low - pad, high + pad];
      const x = { field: "x", type: "quantitative", title: "share of training, %", scale: { domain: [0, 100], nice: false }, axis: { grid: false } };
      const y = { type: "quantitative", title: mode === "abs" ? here.of + (log ? ", logarithmic" : "") : here.of + " against " + ((data.arms[here.base] || {}).title || "the baseline") + ", %", scale: Object.assign({ type: log ? "log" : "linear", nice: false, domain }, log ? {} : { zero: false }), axis: { tickCount: 6 } };
      const small = plot.clientWidth < 560;
      const paint = () => ({ field: "arm", type: "nominal", sort: titles, scale: { domain: titles, range: palette() }, legend: { title: null, orient: "bottom", columns: small ? 1 : 2, symbolType: "stroke", symbolStrokeWidth: 2.4, symbolSize: 400 } });
      const dash = { field: "arm", type: "nominal", sort: titles, scale: { domain: titles, range: titles.map((_, i) => DASHES[i % DASHES.length]) }, legend: { title: null, orient: "bottom", columns: small ? 1 : 2, symbolType: "stroke", symbolStrokeWidth: 2.4, symbolSize: 400 } };
      draw(plot, {
        $schema: "https://vega.github.io/schema/vega-lite/v6.json",
        width: room(plot, 860) - 70, height: 280,
        layer: [
          { data: { values: theirs }, mark: { type: "line", strokeDash: [1, 3], strokeWidth: 1.6, opacity: 0.85, clip: true }, encoding: { x, y: Object.assign({ field: "y" }, y), color: paint(), detail: { field: "run" }, tooltip: [{ field: "run" }, { field: "x", title: "%" }, { field: "y" }] } },
          { data: { values: ours }, mark: { type: "area", opacity: 0.16, clip: true }, encoding: { x, y: Object.assign({ field: "lo" }, y), y2: { field: "hi" }, color: paint() } },
          { data: { values: ours }, mark: { type: "line", strokeWidth: 2.2, clip: true, tooltip: true }, encoding: { x, y: Object.assign({ field: "y" }, y), color: paint(), strokeDash: dash } },
        ],
      }).catch(failed(plot));
    }
    function tradeoff() {
      const points = data.places[place.value].points.filter((p) => p[axis.value] !== undefined).map((p) => ({ x: p[axis.value], y: p.y, lo: p.lo, hi: p.hi, arm: data.arms[p.arm].title, label: on.has(p.arm) ? data.arms[p.arm].title : "", role: data.arms[p.arm].role }));
      const figure = plots.tradeoff.closest("figure");
      figure.hidden = !points.length;
      if (figure.hidden) return;
      const cost = data.costs[axis.value];
      const log = points.every((p) => p.x > 0) && Math.max(...points.map((p) => p.x)) > 4 * Math.min(...points.map((p) => p.x));
      const roles = ["method", "baseline", "ablation", "control"];
      const x = { field: "x", type: "quantitative", title: cost.title + (cost.unit === "B" ? ", bytes" : cost.unit ? ", " + cost.unit : "") + (log ? ", logarithmic" : ""), scale: Object.assign({ type: log ? "log" : "linear", nice: false, padding: 24 }, log ? {} : { zero: false }), axis: { format: "~s", tickCount: 6, labelOverlap: true } };
      const y = { type: "quantitative", title: data.metric, scale: { zero: false, padding: 10 } };
      const small = plots.tradeoff.clientWidth < 560;
      const paint = { field: "role", type: "nominal", scale: { domain: roles, range: palette() }, legend: { title: null, orient: "bottom" } };
      draw(plots.tradeoff, {
        $schema: "https://vega.github.io/schema/vega-lite/v6.json",
        width: room(plots.tradeoff, 860) - 80, height: 320, data: { values: points },
        layer: [
          { mark: { type: "rule", strokeWidth: 1.5, opacity: 0.7 }, encoding: { x, y: Object.assign({ field: "lo" }, y), y2: { field: "hi" }, color: paint } },
          { mark: { type: "point", filled: true, size: 70, opacity: 1 }, encoding: { x, y: Object.assign({ field: "y" }, y), color: paint, shape: { field: "role", type: "nominal", scale: { domain: roles, range: ["circle", "square", "triangle-up", "diamond"] }, legend: { title: null, orient: "bottom" } }, tooltip: [{ field: "arm" }, { field: "role" }, { field: "x", title: cost.title, format: ".4~s" }, { field: "y", title: data.metric, format: ".4" }] } },
        ].concat(small ? [] : [
          { mark: { type: "text", align: "left", dx: 9, dy: -7, fontSize: 12, limit: 240, color: colour("--ink") }, encoding: { x, y: Object.assign({ field: "y" }, y), text: { field: "label" } } },
        ]),
      }).catch(failed(plots.tradeoff));
    }
    function heat() {
      const figure = plots.heat.closest("figure");
      const name = Object.keys(data.places[place.value].matrices)[0];
      figure.hidden = !name;
      if (!name) return;
      const arms = data.places[place.value].matrices[name];
      const cells = [], facets = [];
      for (const arm of Object.keys(arms).slice(0, 6)) {
        for (const [layer, matrix] of Object.entries(arms[arm])) {
          const facet = arm + ", " + layer;
          facets.push(facet);
          matrix.forEach((line, i) => line.forEach((share, j) => cells.push({ facet, i: i + 1, j: j + 1, share })));
        }
      }
      figure.querySelector("figcaption").textContent = "Table “" + name.replaceAll("_", " ") + "” of the records: averaged over seeds, as shares of the total in percent.";
      const size = Math.min(150, Math.max(100, plots.heat.clientWidth / 2 - 60));
      draw(plots.heat, {
        $schema: "https://vega.github.io/schema/vega-lite/v6.json", data: { values: cells },
        facet: { field: "facet", type: "nominal", sort: facets, title: null, header: { labelFontWeight: 400, labelFontSize: 12, labelLimit: size + 20 } }, columns: Math.max(1, Math.min(5, Math.floor(plots.heat.clientWidth / (size + 40)))),
        spec: { width: size, height: size, mark: "rect", encoding: {
          x: { field: "j", type: "ordinal", axis: { labels: false, ticks: false, title: "column" } }, y: { field: "i", type: "ordinal", axis: { labels: false, ticks: false, title: "row" } },
          color: { field: "share", type: "quantitative", scale: { range: [colour("--sunken"), colour("--reproduced")] }, legend: { title: "%", gradientLength: 90 } }, tooltip: [{ field: "i", title: "row" }, { field: "j", title: "column" }, { field: "share", title: "%" }] } },
      }).catch(failed(plots.heat));
    }
    const draws = { curves: lazily(plots.curves[0].closest("figure"), curves), tradeoff: lazily(plots.tradeoff.closest("figure"), tradeoff) };
    const showPlace = () => {
      all("[data-place-id]", section).forEach((e) => { e.hidden = e.dataset.placeId !== place.value; });
      choices();
    };
    const refresh = () => { showPlace(); draws.curves(); draws.tradeoff(); if (draws.heat) draws.heat(); };
    place.addEventListener("change", () => { remember({ setting: place.value }); refresh(); });
    axis.addEventListener("change", tradeoff);
    const asked = address().get("setting");
    if (asked && data.places[asked]) place.value = asked;
    showPlace();
    if (Object.values(data.places).some((p) => Object.keys(p.matrices).length)) {
      plots.heat.closest("figure").hidden = false;
      draws.heat = lazily(plots.heat.closest("figure"), heat);
    }
  }
})();
