"use strict";
// The table above the viewer on the page of `codec compare`.

{
  const [picture] = data.viewer;
  const bytes = (value) => value.toLocaleString("en");
  const { name, width, height, bpp } = picture;
  byId("summary").textContent =
    `${name}: ${width} × ${height} pixels, ${bytes(picture.bytes)} bytes, ${decimals(bpp, 3)} bpp`;
  table(byId("compare-table"), [
    { key: "title", label: "file", text: "text" },
    { key: "quality", label: "quality", show: general },
    { key: "bytes", label: "bytes", show: bytes },
    { key: "bpp", label: "bpp", show: (value) => decimals(value, 4) },
    ...metricColumns(),
  ], data.rows);
}
