/* evalsuite pages: what a reader selects, sorts, filters and links to. Plain script, no module, since pages open from
   file://. The state of a view is the URL's hash (`#c=fp8-e4m3&m=direct&q=...`): keys are short, unknown ones are kept,
   and every control with `data-key` mirrors one. Text from data is only ever set with `textContent`, or drawn by plotly
   after `figures.plain` has escaped it. */
(function () {
  "use strict";
  var root = document.documentElement;
  var PRINTED_WIDTH = 665; /* pixels: the 176 mm that the style sheet gives a chart in print */
  var loaded = {};
  root.classList.add("js");
  window.evalsuite = { put: function (key, value) { loaded[key] = value; } };

  function all(selector, inside) { return Array.prototype.slice.call((inside || document).querySelectorAll(selector)); }
  function stored(key, value) {
    try {
      if (value === undefined) { return window.localStorage.getItem(key); }
      window.localStorage.setItem(key, value);
    } catch (error) { /* no storage under file:// in some browsers: the theme is then not remembered */ }
    return null;
  }
  function setTheme(theme) {
    if (theme === "light" || theme === "dark") { root.dataset.theme = theme; } else { delete root.dataset.theme; }
  }
  setTheme(stored("evalsuite-theme"));

  /* State ------------------------------------------------------------------------------------------------------- */
  function decode(text) { try { return decodeURIComponent(text); } catch (error) { return text; } }
  function readHash() {
    var state = {};
    var hash = window.location.hash.slice(1);
    if (hash.indexOf("=") < 0) { return state; }
    hash.split("&").forEach(function (part) {
      var cut = part.indexOf("=");
      if (cut > 0) { state[decode(part.slice(0, cut))] = decode(part.slice(cut + 1)); }
    });
    return state;
  }
  function formatHash(state) {
    var parts = Object.keys(state).sort().map(function (key) {
      return encodeURIComponent(key) + "=" + encodeURIComponent(state[key]);
    });
    return parts.length ? "#" + parts.join("&") : "";
  }
  var pending = {}; /* what was typed and waits for its timer; any other change takes it along */
  function writeHash(changes, push) {
    var state = readHash();
    changes = Object.assign({}, pending, changes);
    pending = {};
    Object.keys(changes).forEach(function (key) {
      if (changes[key] === null) { delete state[key]; } else { state[key] = changes[key]; }
    });
    var address = formatHash(state) || window.location.pathname + window.location.search;
    if (push) { window.history.pushState(null, "", address); } else { window.history.replaceState(null, "", address); }
    apply();
  }
  function notice(message) {
    var place = document.getElementById("notice");
    place.textContent = message;
    place.hidden = !message;
  }
  function say(message) {
    var live = document.getElementById("live");
    live.textContent = message;
    window.clearTimeout(say.timer);
    say.timer = window.setTimeout(function () { live.textContent = ""; }, 2500);
  }

  /* Controls ---------------------------------------------------------------------------------------------------- */
  function controls() { return all("[data-key]"); }
  function valueOf(control) { return control.type === "checkbox" ? (control.checked ? "1" : "0") : control.value; }
  function setValue(control, value) {
    if (control.type === "checkbox") { control.checked = value === "1"; }
    else if (control.value !== value) { control.value = value; } /* leave the caret of a field that is right already */
  }
  function knows(control, value) {
    return control.tagName !== "SELECT" || Array.prototype.some.call(control.options, function (option) {
      return option.value === value;
    });
  }
  function startControls() {
    controls().forEach(function (control) {
      control.dataset.start = valueOf(control);
      var typed = control.type === "search";
      var timer = null;
      control.addEventListener(typed ? "input" : "change", function () {
        var changes = {};
        var value = valueOf(control);
        changes[control.dataset.key] = value === control.dataset.start ? null : value;
        window.clearTimeout(timer);
        if (typed) {
          Object.assign(pending, changes);
          timer = window.setTimeout(function () { writeHash({}, false); }, 150);
        } else { writeHash(changes, true); }
      });
    });
  }
  function applyControls(state) {
    var unknown = [];
    controls().forEach(function (control) {
      var value = state[control.dataset.key];
      if (value !== undefined && !knows(control, value)) { unknown.push(value); value = undefined; }
      setValue(control, value === undefined ? control.dataset.start : value);
    });
    return unknown;
  }

  /* What is shown ----------------------------------------------------------------------------------------------- */
  function picked(key) {
    var control = document.querySelector('[data-key="' + key + '"]');
    return control ? control.value : "";
  }
  function applyViews() {
    var candidate = picked("c");
    var mode = picked("m");
    all(".view").forEach(function (view) {
      view.classList.toggle("on", ["c", "m", "w"].every(function (key) { return (view.dataset[key] || "") === picked(key); }));
    });
    all(".mode").forEach(function (part) { part.classList.toggle("on", !mode || part.dataset.m === mode); });
    all("[data-pick]").forEach(function (link) {
      if (link.dataset.c === candidate && link.dataset.m === mode) { link.setAttribute("aria-current", "true"); }
      else { link.removeAttribute("aria-current"); }
    });
    if (all(".view").length && !document.querySelector(".view.on")) {
      notice("This candidate was not run in " + mode + " mode. Choose another mode or candidate above.");
    }
  }
  function applyRun(state) {
    var select = document.querySelector("[data-run-select]");
    if (!state.r || !select || state.r === document.body.dataset.run) { return null; }
    if (knows(select, state.r)) { window.location.replace(runPage(state.r, state)); return null; }
    return state.r;
  }
  function runPage(run, state) {
    var rest = Object.assign({}, state);
    delete rest.r;
    var folder = document.body.dataset.root + document.body.dataset.folder;
    return folder + "/" + encodeURIComponent(run) + "/" + document.body.dataset.file + formatHash(rest);
  }
  function carry(state) {
    var kept = {};
    ["c", "m"].forEach(function (key) { if (state[key] !== undefined) { kept[key] = state[key]; } });
    all("a[data-carry]").forEach(function (link) {
      if (link.dataset.bare === undefined) { link.dataset.bare = link.getAttribute("href"); }
      var parts = link.dataset.bare.split("#at=");
      link.setAttribute("href", parts[0] + formatHash(parts[1] ? Object.assign({ at: parts[1] }, kept) : kept));
    });
  }
  function scrollTo(section) {
    var target = all('[data-section="' + (window.CSS ? window.CSS.escape(section) : section) + '"]').filter(function (heading) {
      return heading.offsetParent !== null;
    })[0];
    if (target) { target.scrollIntoView(); }
  }
  var lastAt = null;
  function apply() {
    var state = readHash();
    notice("");
    var unknown = applyControls(state);
    var run = applyRun(state);
    if (run) { unknown.push(run); }
    applyViews();
    applyRows(state);
    applySort(state);
    carry(state);
    drawAll();
    if (unknown.length) {
      notice("This link points at " + unknown.join(", ") + ", which is not in this report. The nearest view is shown instead.");
    }
    if (state.at !== lastAt) { lastAt = state.at; if (state.at) { scrollTo(state.at); } }
  }

  /* Tables ------------------------------------------------------------------------------------------------------ */
  function applyRows(state) {
    var rows = all("[data-complete]");
    if (!rows.length) { return; }
    var words = (state.q || "").toLowerCase().split(/\s+/).filter(Boolean);
    var partial = state.partial !== "0";
    var shown = 0;
    var total = 0;
    rows.forEach(function (row) {
      var text = row.textContent.toLowerCase();
      var inMode = row.closest(".mode").classList.contains("on");
      row.hidden = !(words.every(function (word) { return text.indexOf(word) >= 0; }) &&
                     (partial || row.dataset.complete === "true"));
      if (inMode) { total += 1; if (!row.hidden) { shown += 1; } }
    });
    document.getElementById("matches").textContent = shown + " of " + total + " rows";
  }
  function compare(a, b, column, sign) {
    var x = a.cells[column].dataset.v;
    var y = b.cells[column].dataset.v;
    if (x === "" || y === "") { return (x === "") - (y === ""); } /* absent values stay last, whatever the direction */
    var numeric = !isNaN(x) && !isNaN(y);
    return sign * (numeric ? x - y : x.localeCompare(y, "en", { numeric: true }));
  }
  function applySort(state) {
    var wanted = /^(\w+)\.(asc|desc)$/.exec(state.s || "");
    all("[data-sortable]").forEach(function (table) {
      var body = table.tBodies[0];
      var rows = Array.prototype.slice.call(body.rows);
      rows.forEach(function (row, place) { if (!row.dataset.place) { row.dataset.place = place; } });
      rows.sort(function (a, b) { return a.dataset.place - b.dataset.place; });
      all("th[aria-sort]", table).forEach(function (head) {
        var on = wanted && head.querySelector("button").dataset.sort === wanted[1];
        head.setAttribute("aria-sort", on ? (wanted[2] === "asc" ? "ascending" : "descending") : "none");
        if (on) { rows.sort(function (a, b) { return compare(a, b, head.cellIndex, wanted[2] === "asc" ? 1 : -1); }); }
      });
      rows.forEach(function (row) { body.appendChild(row); });
    });
  }
  function startTables() {
    all("[data-sort]").forEach(function (button) {
      button.addEventListener("click", function () {
        var now = button.closest("th").getAttribute("aria-sort");
        var next = { none: "desc", descending: "asc", ascending: null }[now];
        writeHash({ s: next ? button.dataset.sort + "." + next : null }, true);
      });
    });
    document.addEventListener("keydown", function (event) {
      var filter = document.querySelector("[data-filter]");
      if (event.key === "/" && filter && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
        event.preventDefault();
        filter.focus();
      }
    });
  }

  /* Charts ------------------------------------------------------------------------------------------------------ */
  function colour(name) {
    var probe = document.createElement("span");
    probe.style.color = "var(--" + name.slice(1) + ")";
    document.body.appendChild(probe);
    var value = window.getComputedStyle(probe).color;
    probe.remove();
    return value;
  }
  function resolve(value, key) {
    if (Array.isArray(value)) { return value.map(function (item) { return resolve(item, key); }); }
    if (value && typeof value === "object") {
      var copy = {};
      Object.keys(value).forEach(function (name) { copy[name] = resolve(value[name], name); });
      return copy;
    }
    return typeof value === "string" && /color$/.test(key || "") && value[0] === "@" ? colour(value) : value;
  }
  function draw(chart) {
    var figure = (loaded[chart.dataset.source] || {})[chart.dataset.figure];
    if (!window.Plotly || !figure) {
      chart.classList.add("bare");
      chart.textContent = "The chart could not be loaded. The table below holds every number.";
      return;
    }
    /* The width is ours, not plotly's "responsive": that would squeeze the wide layout before the narrow one is chosen. */
    var width = root.dataset.printing ? PRINTED_WIDTH : chart.clientWidth;
    var layout = Object.assign({}, figure.layout, width < 800 ? figure.narrow : {}, { width: width });
    window.Plotly.react(chart, resolve(figure.data), resolve(layout),
      { displayModeBar: false, responsive: false, scrollZoom: false, doubleClick: false, showTips: false });
  }
  function drawAll() {
    all(".chart").forEach(function (chart) { if (chart.offsetParent !== null) { draw(chart); } });
  }
  function startCharts() {
    var timer = null;
    window.addEventListener("resize", function () {
      window.clearTimeout(timer);
      timer = window.setTimeout(drawAll, 150);
    });
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    window.addEventListener("beforeprint", function () { printing(true); });
    window.addEventListener("afterprint", function () { printing(false); });
  }
  function printing(on) {
    if (on) { root.dataset.printing = "1"; root.style.colorScheme = "light"; }
    else { delete root.dataset.printing; root.style.colorScheme = ""; }
    all("details.table").forEach(function (part) {
      if (on) { part.dataset.was = part.open ? "1" : ""; part.open = true; } else { part.open = part.dataset.was === "1"; }
    });
    drawAll();
  }

  /* The frame --------------------------------------------------------------------------------------------------- */
  function copy(text, done) {
    function fallback() {
      var field = document.createElement("textarea");
      field.value = text;
      document.body.appendChild(field);
      field.select();
      var ok = document.execCommand("copy");
      field.remove();
      say(ok ? done : text);
    }
    if (!navigator.clipboard) { fallback(); return; }
    navigator.clipboard.writeText(text).then(function () { say(done); }, fallback);
  }
  function permanentLink() {
    var state = readHash();
    var run = document.body.dataset.run;
    var page = document.body.dataset.folder && run ? runPage(run, state) : window.location.href;
    return new URL(page, window.location.href).href;
  }
  function startFrame() {
    var tabs = document.querySelector(".tabs");
    var menu = document.createElement("select");
    menu.className = "tabs-select";
    menu.setAttribute("aria-label", "Pages");
    all("a", tabs).forEach(function (link, place) {
      var option = new Option(link.textContent, place);
      option.selected = link.hasAttribute("aria-current");
      menu.add(option);
    });
    menu.addEventListener("change", function () { all("a", tabs)[menu.value].click(); });
    tabs.after(menu);
    var theme = document.querySelector("[data-theme-select]");
    theme.value = root.dataset.theme || "";
    theme.addEventListener("change", function () {
      stored("evalsuite-theme", theme.value);
      setTheme(theme.value);
      drawAll();
    });
    all("[data-copy-link]").forEach(function (button) {
      button.addEventListener("click", function () { copy(permanentLink(), "Link copied"); });
    });
    all("[data-copy]").forEach(function (button) {
      button.addEventListener("click", function () {
        copy(button.parentNode.querySelector("code").textContent, "Command copied");
      });
    });
  }
  function startLinks() {
    document.querySelector(".skip").addEventListener("click", function (event) {
      event.preventDefault(); /* the hash holds the state */
      document.getElementById("content").focus();
    });
    var runs = document.querySelector("[data-run-select]");
    if (runs) {
      runs.addEventListener("change", function () { window.location.href = runPage(runs.value, readHash()); });
    }
    all("[data-pick]").forEach(function (link) {
      link.addEventListener("click", function (event) {
        event.preventDefault();
        pick(link.dataset.c, link.dataset.m);
        window.scrollTo(0, 0);
      });
    });
    all("[data-section-link], .anchor").forEach(function (link) {
      link.addEventListener("click", function (event) {
        event.preventDefault();
        var section = link.getAttribute("href").slice(4);
        lastAt = null;
        writeHash({ at: section }, true);
      });
    });
    document.addEventListener("click", function (event) {
      all(".menu[open]").forEach(function (part) { if (!part.contains(event.target)) { part.open = false; } });
    });
  }
  function pick(candidate, mode) {
    var changes = { at: null };
    [["c", candidate], ["m", mode]].forEach(function (pair) {
      var control = document.querySelector('[data-key="' + pair[0] + '"]');
      changes[pair[0]] = control.dataset.start === pair[1] ? null : pair[1];
    });
    writeHash(changes, true);
  }

  document.addEventListener("DOMContentLoaded", function () {
    startFrame();
    startControls();
    startTables();
    startCharts();
    startLinks();
    window.addEventListener("hashchange", apply);
    window.addEventListener("popstate", apply);
    apply();
  });
})();
