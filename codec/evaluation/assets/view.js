"use strict";
// What `codec view` adds to the viewer: pictures are fetched from its server, and compressed again as the quality changes.

{
  const slider = byId("live-slider");
  const number = byId("live-quality");
  const note = byId("live-note");
  const index = () => Number(byId("view-picture").value);
  const changed = () => document.dispatchEvent(new Event("viewer-changed"));
  const fetched = new Map(); // URL of the server -> URL of the pixels
  let asked = 0;
  let waiting = null;

  async function answer(url, signal) {
    const response = await fetch(url, { signal });
    if (!response.ok) throw new Error((await response.text()).trim());
    return response;
  }

  async function showOriginal() {
    const picture = data.viewer[index()];
    if (!fetched.has(picture.url)) {
      fetched.set(picture.url, URL.createObjectURL(await (await answer(picture.url)).blob()));
      picture.src = fetched.get(picture.url);
    }
    byId("live").hidden = picture.compressed;
    changed();
  }

  function say(figures) {
    const { bytes, bpp, psnr_db: psnr, encode_s: encode, decode_s: decode, stored } = figures;
    byId("live-size").textContent = `${bytes.toLocaleString("en")} bytes`;
    note.textContent = [
      `${decimals(bpp, 3)} bpp, PSNR ${decimals(psnr, 2)} dB`,
      `compressed in ${decimals(encode, 2)} s, decompressed in ${decimals(decode, 2)} s`,
      stored && "kept as it was: coded, it would not be smaller",
    ].filter(Boolean).join(" · ");
  }

  async function compress() {
    const picture = data.viewer[index()];
    if (picture.compressed) {
      note.textContent = `${picture.bytes.toLocaleString("en")} bytes, decoded`;
      return;
    }
    const current = ++asked;
    const [version] = picture.levels[0].views;
    waiting?.abort(); // the server makes the latest one only
    waiting = new AbortController();
    note.textContent = "compressing…";
    try {
      const response = await answer(`${version.url}?quality=${Number(number.value)}`, waiting.signal);
      const figures = JSON.parse(response.headers.get("Codec-Figures"));
      const blob = await response.blob();
      if (current !== asked) return;
      if (version.src) URL.revokeObjectURL(version.src);
      const { quality, bytes, bpp, psnr_db } = figures;
      Object.assign(version, { src: URL.createObjectURL(blob), quality, bytes, bpp, psnr_db });
      say(figures);
      changed();
    } catch (error) {
      if (current === asked) note.textContent = error.message;
    }
  }

  /** Compress when the slider has stood still for a moment. */
  let pause = 0;
  function turn(value) {
    const quality = Math.min(100, Math.max(0, Number(value) || 0));
    [slider.value, number.value] = [quality, quality];
    clearTimeout(pause);
    pause = setTimeout(compress, 150);
  }

  slider.addEventListener("input", () => turn(slider.value));
  number.addEventListener("change", () => turn(number.value));
  byId("live-save").addEventListener("click", () => {
    const name = data.viewer[index()].name.replace(/\.[^.]*$/, "");
    make("a", { href: `${index()}/file?quality=${Number(number.value)}`, download: `${name}.lqc` }).click();
  });
  byId("view-picture").addEventListener("change", async () => {
    await showOriginal();
    compress();
  });

  [slider.value, number.value] = [data.quality, data.quality];
  showOriginal().then(compress).catch((error) => { note.textContent = error.message; });
}
