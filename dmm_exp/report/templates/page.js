"use strict";
// Tells about the dot nearest to the pointer, a finger, or the arrow keys. Without this the figures are whole pictures.
(() => {
  const NEAR = 28; // units of the drawing
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "status");
  const make = (kind, text, parent) => {
    const made = document.createElement(kind);
    made.textContent = text;
    return parent.appendChild(made);
  };

  const written = (value) => {
    if (value === null) return "–";
    return typeof value === "number" ? value.toFixed(2).replace("-", "−") : value;
  };

  const picture = (sheet, place) => {
    if (!sheet || place >= sheet.count) return;
    const scale = 88 / Math.max(sheet.width, sheet.height);
    const shown = make("i", "", tip);
    const [left, top] = [place % sheet.across, Math.floor(place / sheet.across)];
    Object.assign(shown.style, {
      width: `${scale * sheet.width}px`,
      height: `${scale * sheet.height}px`,
      backgroundImage: `url(${sheet.source})`,
      backgroundSize: `${scale * sheet.width * sheet.across}px ${scale * sheet.height * sheet.down}px`,
      backgroundPosition: `${-scale * sheet.width * left}px ${-scale * sheet.height * top}px`,
    });
  };

  const tell = (told, place) => {
    tip.replaceChildren();
    picture(told.sheet, place);
    const words = make("div", "", tip);
    make("strong", told.titles[place], words);
    const list = make("dl", "", words);
    for (const [name, values] of Object.entries(told.fields)) {
      make("dt", name, list);
      make("dd", written(values[place]), list);
    }
  };

  const follow = (drawing, told) => {
    const { width, height } = drawing.viewBox.baseVal;
    const ring = drawing.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "circle"));
    ring.setAttribute("class", "ring");
    ring.setAttribute("r", 7);
    const order = told.x.map((_, place) => place).sort((a, b) => told.x[a] - told.x[b]);
    let at = -1;

    const hide = () => {
      at = -1;
      ring.style.display = tip.style.display = "none";
    };
    const show = (place) => {
      if (place !== at) tell(told, place);
      at = place;
      ring.setAttribute("cx", told.x[place]);
      ring.setAttribute("cy", told.y[place]);
      ring.style.display = tip.style.display = "";
      const box = drawing.getBoundingClientRect();
      const x = box.left + (told.x[place] * box.width) / width;
      const y = box.top + (told.y[place] * box.height) / height;
      const [wide, high] = [tip.offsetWidth, tip.offsetHeight];
      // Beside the dot where there is room, on a phone above or below it.
      const side = x + 16 + wide < innerWidth ? x + 16 : x - 16 - wide;
      const beside = side >= 8;
      const above = y > high + 24 ? y - high - 16 : y + 16;
      tip.style.left = `${beside ? side : Math.max(8, Math.min(x - wide / 2, innerWidth - wide - 8))}px`;
      tip.style.top = `${Math.max(8, Math.min(beside ? y - high / 2 : above, innerHeight - high - 8))}px`;
    };
    const nearest = (event) => {
      const box = drawing.getBoundingClientRect();
      const x = ((event.clientX - box.left) * width) / box.width;
      const y = ((event.clientY - box.top) * height) / box.height;
      let [best, least] = [-1, NEAR * NEAR];
      for (let place = 0; place < told.x.length; place++) {
        const distance = (told.x[place] - x) ** 2 + (told.y[place] - y) ** 2;
        if (distance < least) [best, least] = [place, distance];
      }
      return best < 0 ? hide() : show(best);
    };
    const step = (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") hide();
      if (!by) return;
      event.preventDefault();
      const next = at < 0 ? 0 : order.indexOf(at) + by;
      show(order[(next + order.length) % order.length]);
    };

    hide();
    drawing.tabIndex = 0;
    drawing.addEventListener("pointermove", nearest);
    drawing.addEventListener("pointerdown", nearest);
    drawing.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
    drawing.addEventListener("keydown", step);
    drawing.addEventListener("blur", hide);
    addEventListener("scroll", hide, { passive: true });
  };

  document.body.appendChild(tip);
  for (const data of document.querySelectorAll("script[type='application/json']")) {
    follow(data.previousElementSibling, JSON.parse(data.textContent));
  }
  document.documentElement.classList.add("lively");

  // Paper shows everything but what is long; what was folded is folded again afterwards.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open]):not(.long)")];
    for (const folded of opened) folded.open = true;
  });
  addEventListener("afterprint", () => opened.forEach((folded) => (folded.open = false)));
})();
