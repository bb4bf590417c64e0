// The map of one head: a grid of weights, the words shaded by the chosen row, all heads in small.
// Clicks and arrow keys change the synced traits head and query; Python says the state in words.

function render({ model, el }) {
  const root = element(el, "div", "attention-map", {
    tabindex: "0",
    role: "application",
    "aria-roledescription": "attention map",
    "data-lm-suppress-shortcuts": "true", // else JupyterLab takes the arrow keys
  });
  const words = element(root, "div", "attention-words");
  const row = element(root, "div", "attention-pictures");
  const svg = drawn(row, "svg", { class: "attention-grid", "aria-hidden": "true" });
  const heads = element(row, "div", "attention-heads");
  const status = element(root, "p", "attention-status", { "aria-live": "polite" });
  element(root, "p", "attention-help").textContent =
    "Click a word, a cell or a small map; or focus the map and press ↑ ↓ for the query, ← → for " +
    "the head, Home and End for the first and last query. Under each small map: its entropy as a " +
    "share of the maximum.";
  let [cells, boxes, frame, margin, size] = [[], [], null, 0, 0];

  const weight = (head, query, key) => model.get("weights")[head]?.[query]?.[key] ?? 0;

  function choose(name, value, count) {
    if (count < 1) return;
    model.set(name, Math.min(count - 1, Math.max(0, value)));
    model.save_changes();
  }

  function build() {
    const tokens = model.get("tokens");
    size = Math.max(6, Math.min(30, Math.floor(380 / tokens.length)));
    margin = size >= 12 ? 88 : 8;
    words.replaceChildren();
    svg.replaceChildren();
    cells = [];
    boxes = tokens.map((label, index) => {
      const box = element(words, "button", "attention-word", {
        type: "button",
        tabindex: "-1",
        "data-word": index,
      });
      element(box, "span", "attention-token").textContent = label;
      element(box, "span", "attention-weight");
      box.addEventListener("click", () => choose("query", index, tokens.length));
      return box;
    });
    const side = size * tokens.length;
    svg.setAttribute("width", margin + side + 2);
    svg.setAttribute("height", margin + side + 2);
    tokens.forEach((label, query) => {
      if (margin > 8) {
        const middle = margin + size * (query + 0.5);
        const left = { x: margin - 5, y: middle + 4, "text-anchor": "end", "data-query": query };
        const turned = `translate(${middle + 4} ${margin - 5}) rotate(-90)`;
        const top = { transform: turned, "data-key": query };
        for (const place of [left, top]) {
          drawn(svg, "text", { class: "attention-label", ...place }, short(label));
        }
      }
      cells.push(
        tokens.map((_, key) => {
          const cell = drawn(svg, "rect", {
            class: "attention-cell", width: size, height: size,
            x: margin + size * key, y: margin + size * query, "data-query": query, "data-key": key,
          });
          drawn(cell, "title");
          return cell;
        }),
      );
    });
    frame = drawn(svg, "rect", { class: "attention-frame", x: margin, width: side, height: size });
  }

  function drawHeads() {
    const tokens = model.get("tokens");
    heads.replaceChildren();
    model.get("weights").forEach((_, head) => {
      const button = element(heads, "button", "attention-head", {
        type: "button",
        tabindex: "-1",
        "data-head": head,
        title: `head ${head}`,
      });
      const canvas = element(button, "canvas", "attention-small", {
        width: tokens.length,
        height: tokens.length,
      });
      const pen = canvas.getContext("2d");
      tokens.forEach((_, query) =>
        tokens.forEach((_, key) => {
          pen.fillStyle = shade(weight(head, query, key));
          pen.fillRect(key, query, 1, 1);
        }),
      );
      const share = model.get("spread")[head];
      element(button, "span", "attention-caption").textContent =
        share === undefined ? `head ${head}` : `head ${head}: ${Math.round(100 * share)} %`;
      button.addEventListener("click", () =>
        choose("head", head, model.get("weights").length),
      );
    });
  }

  function draw() {
    const tokens = model.get("tokens");
    const [head, query] = [model.get("head"), model.get("query")];
    cells.forEach((row, q) =>
      row.forEach((cell, k) => {
        const value = weight(head, q, k);
        cell.setAttribute("fill", shade(value));
        cell.firstChild.textContent = `${tokens[q]} → ${tokens[k]}: ${value.toFixed(2)}`;
      }),
    );
    boxes.forEach((box, key) => {
      const value = weight(head, query, key);
      box.style.background = shade(value);
      box.style.color = value > 0.25 ? "#fff" : "#111";
      box.classList.toggle("attention-query", key === query);
      box.lastChild.textContent = value >= 0.005 ? value.toFixed(2) : "·";
    });
    frame.setAttribute("y", margin + size * query);
    for (const small of heads.children) {
      const chosen = Number(small.dataset.head) === head;
      small.classList.toggle("attention-chosen", chosen);
      small.setAttribute("aria-pressed", chosen);
    }
    root.dataset.query = query;
    root.dataset.head = head;
    root.dataset.layer = model.get("layer");
  }

  function say() {
    status.textContent = model.get("summary");
    root.setAttribute("aria-label", `Attention map. ${model.get("summary")}`);
  }

  function rebuild() {
    build();
    drawHeads();
    draw();
  }

  svg.addEventListener("click", (event) => {
    const query = event.target.dataset?.query;
    if (query !== undefined) choose("query", Number(query), model.get("tokens").length);
  });
  root.addEventListener("click", () => root.focus({ preventScroll: true }));
  root.addEventListener("keydown", (event) => {
    const count = model.get("tokens").length;
    const moves = {
      ArrowUp: ["query", model.get("query") - 1, count],
      ArrowDown: ["query", model.get("query") + 1, count],
      Home: ["query", 0, count],
      End: ["query", count - 1, count],
      ArrowLeft: ["head", model.get("head") - 1, model.get("weights").length],
      ArrowRight: ["head", model.get("head") + 1, model.get("weights").length],
    };
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    choose(...moves[event.key]);
  });

  const soon = once(rebuild);
  rebuild();
  say();
  const together = { tokens: soon, weights: soon, spread: soon };
  return follow(model, { ...together, head: draw, query: draw, layer: draw, summary: say });
}

export default { render };
