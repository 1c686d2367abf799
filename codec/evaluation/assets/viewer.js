"use strict";
// Two versions of a picture, one over or beside the other. Both panes share one view: an image pixel (u, v) stands
// at (x + u * scale, y + v * scale) from the pane's corner, in CSS pixels.

{
  const MAX_SCALE = 64;
  const FLICKER_MS = 700; // under two changes a second: safe for those whom flashes harm (WCAG 2.3.1 allows three)
  const pictures = data.viewer;
  const stage = byId("stage");
  const handle = byId("handle");
  const images = { left: byId("image-left"), right: byId("image-right") };
  const canvas = byId("difference");
  const state = {
    mode: "slider", split: 0.5, shown: "left", x: 0, y: 0, scale: 1, fitted: true,
    rival: data.viewer_start === "rival", // the best of the others on the left
    left: "", right: "", // titles, so that a choice outlasts a change of picture and size
  };
  let timer = 0;

  // What is shown --------------------------------------------------------------------------------------------

  const picture = () => pictures[Number(byId("view-picture").value)];
  const level = () => picture().levels[Number(byId("view-level").value)];

  /** The versions to choose from; the original first. */
  function versions() {
    const { src, bytes, bpp } = picture();
    return [{ title: "original", src, bytes, bpp }, ...level().views];
  }

  const version = (side) => versions()[Number(byId(`view-${side}`).value)];

  function chooseLevels() {
    fill(byId("view-level"), picture().levels.map(({ label }, i) => [i, label]));
    byId("view-level-label").hidden = picture().levels.length < 2;
    chooseVersions();
  }

  function chooseVersions() {
    const titles = versions().map(({ title }) => title);
    if (state.rival && level().rival) state.left = level().rival; // until somebody chooses
    for (const [side, fallback] of [["left", 0], ["right", 1]]) {
      const select = byId(`view-${side}`);
      fill(select, titles.map((title, i) => [i, title]));
      const wanted = titles.indexOf(state[side]);
      select.value = wanted >= 0 ? wanted : Math.min(fallback, titles.length - 1);
    }
    show();
  }

  function caption(element, { title, quality, bytes, bpp, ...rest }, reference) {
    const words = [];
    if (quality != null) words.push(`quality ${general(quality)}`);
    if (bytes != null) words.push(`${bytes.toLocaleString("en")} bytes`, `${decimals(bpp, 3)} bpp`);
    for (const { key, label, digits } of data.metrics) {
      const [word, unit = ""] = label.split(", ");
      if (rest[key] == null || key === "ms_ssim_db") continue;
      const text = `${word} ${decimals(rest[key], digits)} ${unit}`.trim();
      words.push(text.replaceAll(" ", "\u00a0")); // no break between a number and its unit
    }
    if (reference && bytes != null && reference.bytes != null && reference.bytes !== bytes) {
      const more = 100 * (bytes / reference.bytes - 1);
      words.push(`${decimals(Math.abs(more), 1)} % ${more > 0 ? "more" : "fewer"} bytes than the left`);
    }
    element.replaceChildren(make("b", { textContent: title }), words.join(" · "));
  }

  let showing = 0;
  async function show() {
    const current = ++showing; // a later choice may overtake this one while pictures decode
    const [left, right] = [version("left"), version("right")];
    [state.left, state.right] = [left.title, right.title];
    caption(byId("caption-left"), left);
    caption(byId("caption-right"), right, left.title === "original" ? null : left);
    for (const [image, { src }] of [[images.left, left], [images.right, right]]) {
      if (src) image.src = src;
      else image.removeAttribute("src"); // not there yet
    }
    images.left.alt = `${picture().name}: ${left.title}`;
    images.right.alt = `${picture().name}: ${right.title}`;
    await Promise.all([images.left.decode(), images.right.decode()]).catch(() => {});
    if (current !== showing) return;
    drawDifference();
    size();
  }

  /** Amplified absolute difference of each channel. */
  function drawDifference() {
    if (state.mode !== "difference" || !images.left.naturalWidth || !images.right.naturalWidth) return;
    const { width, height } = picture();
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const pixels = ["left", "right"].map((side) => {
      context.drawImage(images[side], 0, 0);
      return context.getImageData(0, 0, width, height);
    });
    const [a, b] = pixels.map((image) => image.data);
    const gain = Number(byId("view-gain").value);
    for (let i = 0; i < a.length; i++) a[i] = i % 4 === 3 ? 255 : Math.abs(a[i] - b[i]) * gain;
    context.putImageData(pixels[0], 0, 0);
  }

  // Where it is shown ----------------------------------------------------------------------------------------

  const paneWidth = () => stage.clientWidth / (state.mode === "beside" ? 2 : 1);
  const fitScale = () => Math.min(paneWidth() / picture().width, stage.clientHeight / picture().height);

  function size() {
    const { width, height } = picture();
    const room = stage.clientWidth * (state.mode === "beside" ? 0.5 : 1);
    stage.style.height = `${Math.round(Math.max(160, Math.min(room * height / width, 0.8 * innerHeight)))}px`;
    if (state.fitted) fit();
    else place();
  }

  function fit() {
    state.scale = fitScale();
    state.fitted = true;
    place();
  }

  /** Keep the picture in the stage, or in its middle where it is smaller. */
  function clamp(offset, length, room) {
    return length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, offset));
  }

  function place() {
    const { width, height } = picture();
    const { mode, scale } = state;
    state.x = clamp(state.x, width * scale, paneWidth());
    state.y = clamp(state.y, height * scale, stage.clientHeight);
    const transform = `translate(${state.x}px, ${state.y}px) scale(${scale})`;
    for (const element of [images.left, images.right, canvas]) element.style.transform = transform;
    // Whole screen pixels for every pixel of the picture; below that, smoothed as browsers do.
    stage.classList.toggle("pixels", scale * devicePixelRatio >= 1);
    stage.style.touchAction = state.fitted ? "pan-y" : "none";

    const half = mode === "beside";
    const one = mode === "flicker";
    Object.assign(byId("pane-left").style, {
      right: half ? "50%" : "0",
      visibility: one && state.shown === "right" ? "hidden" : "",
    });
    Object.assign(byId("pane-right").style, {
      left: half ? "50%" : "0",
      visibility: one && state.shown === "left" ? "hidden" : "",
      clipPath: mode === "slider" ? `inset(0 0 0 ${100 * state.split}%)` : "",
    });
    byId("pane-difference").hidden = mode !== "difference";
    handle.hidden = mode !== "slider";
    handle.style.left = `${100 * state.split}%`;
    handle.setAttribute("aria-valuenow", Math.round(100 * state.split));
    byId("flicker-controls").hidden = !one;
    byId("difference-controls").hidden = mode !== "difference";
    byId("view-zoom").textContent = `${Math.round(100 * scale * devicePixelRatio)} %`;
    byId("badge-left").hidden = one && state.shown === "right";
    byId("badge-right").hidden = mode === "difference" || (one && state.shown === "left");
    byId("badge-left").textContent = mode === "difference"
      ? `${state.left} − ${state.right}, ${byId("view-gain").value} ×` : state.left;
    byId("badge-right").textContent = state.right;
    for (const button of document.querySelectorAll("[data-mode]")) {
      button.setAttribute("aria-pressed", button.dataset.mode === mode);
    }
  }

  /** Multiply the scale; what is under (x, y) of a pane stays there. */
  function zoom(factor, x = paneWidth() / 2, y = stage.clientHeight / 2) {
    const smallest = Math.min(fitScale(), 1 / devicePixelRatio);
    const scale = Math.min(MAX_SCALE, Math.max(smallest, state.scale * factor));
    state.x = x - (x - state.x) * scale / state.scale;
    state.y = y - (y - state.y) * scale / state.scale;
    state.scale = scale;
    state.fitted = Math.abs(scale - fitScale()) < 1e-6;
    place();
  }

  function setMode(mode) {
    const halves = (mode === "beside") !== (state.mode === "beside");
    state.mode = mode;
    drawDifference();
    if (halves) size();
    else place();
    tick();
  }

  function swap() {
    state.shown = state.shown === "left" ? "right" : "left";
    place();
  }

  /** Start or stop the flicker that goes by itself. */
  function tick() {
    clearInterval(timer);
    if (state.mode === "flicker" && byId("view-auto").checked) timer = setInterval(swap, FLICKER_MS);
  }

  function slide(split) {
    state.split = Math.min(1, Math.max(0, split));
    place();
  }

  // Pointer: the divider slides, the picture moves, two fingers zoom --------------------------------------------

  const pointers = new Map();
  let sliding = false;

  function inStage(event) {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    sliding = event.target === handle;
    pointers.set(event.pointerId, inStage(event));
    stage.setPointerCapture(event.pointerId);
    stage.classList.add("moving");
    (sliding ? handle : stage).focus({ preventScroll: true });
    event.preventDefault();
  });

  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = inStage(event);
    const others = [...pointers].filter(([id]) => id !== event.pointerId);
    pointers.set(event.pointerId, now);
    if (sliding) return slide(now[0] / stage.clientWidth);
    if (others.length === 1) {
      const [, other] = others[0];
      const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
      zoom(apart(now) / apart(before), ((now[0] + other[0]) / 2) % paneWidth(), (now[1] + other[1]) / 2);
    } else {
      state.x += now[0] - before[0];
      state.y += now[1] - before[1];
      place();
    }
  });

  for (const kind of ["pointerup", "pointercancel"]) {
    stage.addEventListener(kind, (event) => {
      pointers.delete(event.pointerId);
      if (pointers.size === 0) stage.classList.remove("moving");
    });
  }

  stage.addEventListener("wheel", (event) => {
    // Without a click on the picture before, the wheel goes on scrolling the page. A pinch comes with ctrlKey.
    if (!event.ctrlKey && !stage.contains(document.activeElement)) return;
    event.preventDefault();
    const [x, y] = inStage(event);
    zoom(2 ** (-event.deltaY / (event.ctrlKey ? 50 : 240)), x % paneWidth(), y);
  }, { passive: false });

  // Keys and buttons --------------------------------------------------------------------------------------------

  const STEP = 48;
  const keys = {
    " ": () => (state.mode === "flicker" ? swap() : setMode("flicker")),
    s: () => setMode("slider"), b: () => setMode("beside"), d: () => setMode("difference"),
    "+": () => zoom(Math.SQRT2), "=": () => zoom(Math.SQRT2), "-": () => zoom(Math.SQRT1_2),
    0: fit, 1: () => zoom(1 / (state.scale * devicePixelRatio)),
    ArrowLeft: () => { state.x += STEP; place(); }, ArrowRight: () => { state.x -= STEP; place(); },
    ArrowUp: () => { state.y += STEP; place(); }, ArrowDown: () => { state.y -= STEP; place(); },
  };
  const sliderKeys = {
    ArrowLeft: () => slide(state.split - 0.02), ArrowRight: () => slide(state.split + 0.02),
    ArrowDown: () => slide(state.split - 0.02), ArrowUp: () => slide(state.split + 0.02),
    Home: () => slide(0), End: () => slide(1),
  };

  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const action = (event.target === handle && sliderKeys[event.key]) || keys[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });

  function start() {
    fill(byId("view-picture"), pictures.map(({ name }, i) => [i, name]));
    byId("view-picture-label").hidden = pictures.length < 2;
    byId("view-auto").checked = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    const onChange = {
      "view-picture": chooseLevels, "view-level": chooseVersions, "view-right": show,
      "view-left": () => { state.rival = false; show(); },
      "view-gain": () => { drawDifference(); place(); }, "view-auto": tick,
    };
    for (const [id, action] of Object.entries(onChange)) byId(id).addEventListener("change", action);
    const onClick = {
      "view-out": keys["-"], "view-in": keys["+"], "view-fit": fit, "view-actual": keys[1],
      "view-swap": () => { byId("view-auto").checked = false; tick(); swap(); },
      "view-exchange": () => {
        const [left, right] = [byId("view-left"), byId("view-right")];
        state.rival = false;
        [left.value, right.value] = [right.value, left.value];
        show();
      },
    };
    for (const [id, action] of Object.entries(onClick)) byId(id).addEventListener("click", action);
    for (const button of document.querySelectorAll("[data-mode]")) {
      button.addEventListener("click", () => setMode(button.dataset.mode));
    }
    document.addEventListener("viewer-changed", chooseVersions); // somebody has put other versions into the data
    let width = 0; // the height is ours, and following it would go in circles
    new ResizeObserver(() => {
      if (stage.clientWidth !== width) {
        width = stage.clientWidth;
        size();
      }
    }).observe(stage);
    chooseLevels();
    if (state.rival && level().rival) { // beside ours at about the same size, pixel for pixel
      setMode("beside");
      keys[1]();
    }
  }

  if (pictures.length > 0) {
    start();
  } else {
    byId("viewer").hidden = true;
    const link = document.querySelector('nav a[href="#viewer"]');
    if (link) link.hidden = true;
  }
}
