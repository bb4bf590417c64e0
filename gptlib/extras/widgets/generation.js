// The text so far, the bars of the next token stage by stage, the beams, and the entropy.
// Python computes everything; clicks and keys are sent to it as messages {do, panel, ...}.

function percent(p) {
  if (p >= 0.0995) return `${Math.round(100 * p)} %`;
  return p >= 0.001 ? `${(100 * p).toFixed(1)} %` : p > 0 ? "<0.1 %" : "0 %";
}

function number(value) {
  return value.toFixed(Math.abs(value) < 99.5 ? 1 : 0).replace("-", "−");
}

// Keep as many children as there are items, and fill each one: what has the focus keeps it.
function fill(parent, items, make, update) {
  while (parent.children.length > items.length) parent.lastChild.remove();
  items.forEach((item, index) => update(parent.children[index] ?? make(index), item, index));
}

// Let arrows, Home and End move the focus among the elements that match.
function walk(group, selector) {
  group.addEventListener("keydown", (event) => {
    const all = [...group.querySelectorAll(selector)];
    const at = all.indexOf(event.target);
    const [on, back] = [Math.min(at + 1, all.length - 1), Math.max(at - 1, 0)];
    const moves = { ArrowRight: on, ArrowDown: on, ArrowLeft: back, ArrowUp: back };
    const to = { ...moves, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    all[to].focus();
    event.preventDefault();
    event.stopPropagation();
  });
}

function makePanel(parent, index, send) {
  const root = element(parent, "section", "sampling-panel");
  const title = element(root, "div", "sampling-title");
  const text = element(root, "div", "sampling-text", { role: "group" });
  const prompt = element(text, "span", "sampling-prompt");
  const tokens = element(text, "span", "sampling-tokens");
  const next = element(text, "span", "sampling-token sampling-next", { role: "button" });
  const heading = element(root, "div", "sampling-heading");
  const following = element(root, "div", "sampling-following");
  const table = element(root, "table", "sampling-stages");
  const head = element(element(table, "thead"), "tr");
  const body = element(table, "tbody");
  const foot = element(element(table, "tfoot"), "tr");
  const beams = element(root, "div", "sampling-beams", { role: "group" });
  const svg = drawn(root, "svg", { class: "sampling-entropy", role: "img" });

  next.textContent = "?";
  text.addEventListener("click", (event) => {
    const place = event.target.dataset?.place;
    if (place !== undefined) send({ do: "look", panel: index, place: Number(place) });
  });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.target.click();
    event.preventDefault();
    event.stopPropagation();
  });
  walk(text, ".sampling-token");
  for (const group of [body, beams]) {
    walk(group, "button");
    group.addEventListener("click", (event) => {
      const data = event.target.closest("button")?.dataset;
      if (data?.token !== undefined) {
        send({ do: "choose", panel: index, token: Number(data.token), place: Number(data.at) });
      } else if (data?.beam !== undefined) {
        send({ do: "beam", panel: index, beam: Number(data.beam) });
      }
    });
  }

  function drawText(data, shades) {
    title.textContent = data.title;
    title.hidden = !data.title;
    root.setAttribute("aria-label", data.title || "text and next token");
    text.setAttribute("aria-label", `Text${data.title ? ` ${data.title}` : ""}, token by token`);
    prompt.textContent = data.prompt;
    const shade = (p) => shades.find(([least]) => p >= least);
    const stop = (node, place) => {
      node.dataset.place = place;
      node.tabIndex = place === data.place ? 0 : -1; // one stop of Tab; arrows move inside
      node.classList.toggle("sampling-looked-at", place === data.place);
      node.setAttribute("aria-current", place === data.place);
    };
    const make = () => element(tokens, "span", "sampling-token", { role: "button" });
    fill(tokens, data.tokens, make, (node, token, place) => {
      const [shown, name, p, said, byHand] = token;
      if (node.textContent !== shown) node.textContent = shown;
      const [, , background, ink] = shade(p);
      node.style.background = background;
      node.style.color = ink;
      node.title = said;
      node.dataset.label = name;
      node.setAttribute("aria-label", said);
      node.classList.toggle("sampling-by-hand", byHand);
      stop(node, place);
    });
    stop(next, data.tokens.length);
    next.title = "the next token";
    next.setAttribute("aria-label", "the next token");
    next.hidden = data.ended;
    heading.textContent = data.heading;
    following.textContent = data.next;
    following.hidden = !data.title; // with one column, the read-out above says it
    // Scroll the text, not the page, so that the marked place can be seen.
    const marked = text.querySelector(".sampling-looked-at");
    if (marked) {
      const [inner, outer] = [marked.getBoundingClientRect(), text.getBoundingClientRect()];
      if (inner.bottom > outer.bottom) text.scrollTop += inner.bottom - outer.bottom + 6;
      if (inner.top < outer.top) text.scrollTop -= outer.top - inner.top + 6;
    }
  }

  function drawStages(data, compact) {
    const stages = data.stages
      .map((stage, at) => ({ ...stage, at }))
      .filter((stage) => stage.active || !compact);
    const most = Math.max(...data.rows.flatMap((row) => row.values.map((value) => value[1])), 1e-9);
    head.replaceChildren();
    element(head, "th", "sampling-corner", { scope: "col" }).textContent = "token";
    const active = stages.filter((stage) => stage.active);
    table.classList.toggle("sampling-dense", active.length > (compact ? 3 : 5));
    for (const stage of stages) {
      const cell = element(head, "th", stage.active ? "" : "sampling-off", { scope: "col" });
      element(cell, "span", "sampling-name").textContent = stage.name;
      if (!compact) element(cell, "span", "sampling-note").textContent = stage.note;
      if (stage.cuts) {
        element(cell, "span", "sampling-note").textContent =
          `${stage.left.toLocaleString("en-US")} left`;
      }
    }
    const last = active.at(-1);
    const makeRow = () => {
      const row = element(body, "tr");
      element(element(row, "th", "", { scope: "row" }), "button", "sampling-alternative", {
        type: "button",
      });
      return row;
    };
    fill(body, data.rows, makeRow, (row, item) => {
      const button = row.firstChild.firstChild;
      button.textContent = item.label;
      button.dataset.token = item.token;
      button.dataset.at = data.place;
      button.dataset.label = item.label;
      button.title = button.ariaLabel = item.said;
      row.classList.toggle("sampling-written", item.written);
      button.setAttribute("aria-pressed", item.written);
      while (row.children.length > 1) row.lastChild.remove();
      let before = null;
      for (const stage of stages) {
        const cell = element(row, "td", stage.active ? "" : "sampling-off");
        if (!stage.active) continue;
        const [logit, p] = item.values[stage.at];
        const box = element(cell, "div", "sampling-bar");
        if (!compact && stage.numbers) {
          element(box, "span", "sampling-logit").textContent = logit === null ? "" : number(logit);
        }
        const track = element(box, "span", "sampling-track");
        const part = (kind, from, to) => {
          const piece = element(track, "i", `sampling-${kind}`);
          piece.style.left = `${(100 * from) / most}%`;
          piece.style.width = `${(100 * (to - from)) / most}%`;
        };
        const cut = logit === null;
        const was = before?.[1] ?? p;
        if (cut && before?.[0] !== null) part("cut", 0, Math.max(was, 0.01 * most));
        if (!cut) part("kept", 0, Math.min(p, was));
        if (!cut && p > was) part("grown", was, p);
        if (!cut && p < was) part("lost", p, was);
        const gone = cut && before?.[0] === null;
        element(box, "span", cut ? "sampling-gone" : "sampling-percent").textContent =
          gone ? "" : cut ? "✕ cut" : percent(p);
        if (stage === last) cell.classList.add("sampling-last");
        before = item.values[stage.at];
      }
    });
    foot.replaceChildren();
    element(foot, "th", "", { scope: "row" }).textContent = "all others";
    for (const stage of stages) {
      const cell = element(foot, "td", stage.active ? "" : "sampling-off");
      if (stage.active) {
        const others = stage.others.toLocaleString("en-US");
        cell.textContent = stage.others ? `${others}: ${percent(stage.rest)}` : "all cut";
        cell.title = `${others} other tokens are left, with ${percent(stage.rest)} together`;
      }
    }
  }

  function drawBeams(data) {
    beams.hidden = !data.beams.length;
    if (!beams.firstChild) {
      element(beams, "div", "sampling-heading").textContent =
        "Beams, best first (click one to go on from it)";
      element(beams, "div", "sampling-beam-list");
    }
    const list = beams.lastChild;
    const make = () => {
      const button = element(list, "button", "sampling-beam", { type: "button" });
      element(button, "span", "sampling-score");
      element(button, "span", "");
      return button;
    };
    fill(list, data.beams, make, (button, [label, score], place) => {
      button.dataset.beam = place;
      button.firstChild.textContent = score.toFixed(2).replace("-", "−");
      button.lastChild.textContent = label;
      button.title = `beam ${place + 1}, score ${score.toFixed(2)}`;
    });
  }

  function drawEntropy(data, compact) {
    svg.replaceChildren();
    const [width, height, left, right, top, bottom] = [compact ? 360 : 740, 132, 40, 8, 20, 32];
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("aria-label", data.entropySaid);
    const points = data.entropy;
    const highest = Math.max(1, Math.ceil(Math.max(...points.flat())));
    const count = Math.max(points.length - 1, 10);
    const x = (place) => left + 6 + ((width - left - right - 12) * place) / count;
    const y = (nats) => height - bottom - ((height - top - bottom) * nats) / highest;
    const label = { "font-size": 11, fill: "#333" };
    const line = (x1, y1, x2, y2, more) => drawn(svg, "line", { x1, y1, x2, y2, ...more });
    for (const nats of [0, highest / 2, highest]) {
      line(left, y(nats), width - right, y(nats), { stroke: "#ccc" });
      const spelled = Number.isInteger(nats) ? nats : nats.toFixed(1);
      drawn(svg, "text", { ...label, x: left - 5, y: y(nats) + 4, "text-anchor": "end" }, spelled);
    }
    const every = Math.ceil(count / (compact ? 5 : 10) / 5) * 5 || 5;
    for (let place = 0; place <= count; place += every) {
      drawn(svg, "text", { ...label, x: x(place), y: height - 17, "text-anchor": "middle" }, place);
    }
    const middle = { ...label, "text-anchor": "middle" };
    drawn(svg, "text", { ...middle, x: (left + width) / 2, y: height - 3 }, "tokens written");
    const turned = `translate(11 ${(top + height - bottom) / 2}) rotate(-90)`;
    drawn(svg, "text", { ...middle, transform: turned }, "entropy (nats)");
    line(x(data.place), top - 4, x(data.place), height - bottom, {
      stroke: "#767676", "stroke-dasharray": "2 2",
    });
    const series = [
      ["the model's", "#0072b2", "none"],
      ["after the filters", "#d55e00", "5 3"],
    ];
    series.forEach(([name, color, dash], which) => {
      const path = points.map((pair, place) => `${place ? "L" : "M"}${x(place)} ${y(pair[which])}`);
      const look = { fill: "none", stroke: color, "stroke-width": 1.8, "stroke-dasharray": dash };
      drawn(svg, "path", { d: path.join(""), ...look });
      points.forEach((pair, place) => {
        const at = { cx: x(place), cy: y(pair[which]), r: place === data.place ? 4 : 2.2 };
        const dot = drawn(svg, "circle", { ...at, fill: color });
        drawn(dot, "title", {}, `after ${place} tokens: ${pair[which].toFixed(2)} nats`);
      });
      const start = left + 8 + 120 * which;
      line(start, 8, start + 22, 8, look);
      drawn(svg, "text", { ...label, x: start + 27, y: 12, fill: color }, name);
    });
  }

  return (data, shades, compact) => {
    const focused = root.contains(document.activeElement) ? document.activeElement : null;
    drawText(data, shades);
    drawStages(data, compact);
    drawBeams(data);
    drawEntropy(data, compact);
    // What had the focus went away (a token undone, fewer alternatives): stay in this panel.
    if (focused && !root.contains(document.activeElement)) {
      const text = focused.classList.contains("sampling-token");
      (text ? next : root.querySelector(".sampling-alternative"))?.focus({ preventScroll: true });
    }
  };
}

function render({ model, el }) {
  const root = element(el, "div", "sampling-view", {
    "data-lm-suppress-shortcuts": "true", // else JupyterLab takes the arrow keys and Enter
  });
  const status = element(root, "p", "sampling-status", { "aria-live": "polite" });
  const legend = element(root, "div", "sampling-legend");
  const columns = element(root, "div", "sampling-columns");
  element(root, "p", "sampling-help").textContent =
    "Click an alternative (or focus it and press Enter) to write it and go on from there; ↑ ↓ move " +
    "between alternatives. Click a token of the text to see what it was drawn from and to choose " +
    "another in its place; ← → move between tokens. Numbers before the bars are logits.";
  const send = (message) => model.send(message);
  let panels = [];

  function draw() {
    const data = model.get("panels");
    if (panels.length !== data.length) {
      columns.replaceChildren();
      panels = data.map((_, index) => makePanel(columns, index, send));
    }
    const compact = data.length > 1;
    columns.classList.toggle("sampling-two", compact);
    data.forEach((panel, index) => panels[index](panel, model.get("shades"), compact));
  }

  function drawLegend() {
    legend.replaceChildren();
    element(legend, "span").textContent = "The model gave the token";
    for (const [, label, background, ink] of model.get("shades")) {
      const key = element(legend, "span", "sampling-key");
      key.textContent = label;
      key.style.background = background;
      key.style.color = ink;
    }
    element(legend, "span", "sampling-by-hand").textContent = "chosen by hand";
    const kinds = { grown: "grown", lost: "shrunk", cut: "cut" };
    element(legend, "span", "sampling-bars-legend").textContent = "Bars, since the stage before:";
    for (const [kind, name] of Object.entries(kinds)) {
      const key = element(legend, "span", "sampling-kind");
      element(element(key, "span", "sampling-swatch"), "i", `sampling-${kind}`);
      key.append(name);
    }
  }

  function say() {
    status.textContent = model.get("summary");
    status.classList.toggle("sampling-error", model.get("problem"));
    root.dataset.state = model.get("state");
  }

  drawLegend();
  draw();
  say();
  return follow(model, { panels: once(draw), summary: say, problem: say, state: say });
}

export default { render };
