// Opens a DHAT file in valgrind's own viewer and compares what it shows with totals.json.
// node dhat_view.mjs dh_view.html FILE.dhat.json FILE.totals.json [TEXT THAT MUST BE SHOWN]...

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { strict as assert } from "node:assert";

const { chromium } = createRequire(`${process.env.BROWSER_MODULES}/`)("playwright-core");
const [viewer, file, totalsFile, ...wanted] = process.argv.slice(2);
const totals = JSON.parse(readFileSync(totalsFile, "utf8"));
const data = JSON.parse(readFileSync(file, "utf8"));

const browser = await chromium.launch({
  executablePath: process.env.BROWSER,
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const page = await browser.newPage({ locale: "en-US" });
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  await page.goto(pathToFileURL(viewer).href);
  await page.setInputFiles("input[type=file]", file);
  await page.waitForFunction(() => document.querySelector(".times, .error"));

  // The whole tree, and again by each measure that the viewer offers for this file.
  const seen = [];
  for (const option of await page.locator("select option:not([disabled])").all()) {
    await page.selectOption("select", await option.getAttribute("value"));
    assert.deepEqual(await page.locator(".error").allTextContents(), []);
    seen.push(await page.evaluate(() => document.body.innerText));
  }
  assert.ok(seen.length >= 5, `only ${seen.length} measures are offered`);
  assert.deepEqual(errors, []);

  const number = (n) => n.toLocaleString("en-US");
  const line = (name, bytes, blocks) =>
    new RegExp(`${name}: +${number(bytes)} bytes \\([^)]*\\) in ${number(blocks)} blocks \\(`);
  // The root comes first; each view leaves out of it what does not matter there.
  const roots = seen.map((text) => text.slice(text.indexOf("PP 1/1")).split("}", 1)[0]);
  for (const expected of [
    line("Total", totals.alloc_space, totals.alloc_objects),
    line("At t-gmax", totals.peak_space, totals.peak_objects),
    line("At t-end", totals.inuse_space, totals.inuse_objects),
  ]) {
    assert.ok(roots.some((root) => expected.test(root)), `${expected} is not in\n${roots[0]}`);
  }
  for (const text of seen) {
    assert.doesNotMatch(text, /NaN|∞\/|undefined/);
    assert.ok(text.includes(`PID:     ${data.pid}`));
  }
  const all = seen.join("\n");
  for (const text of wanted) {
    assert.ok(all.includes(text), `the viewer does not show: ${text}`);
  }
  console.log(`dh_view shows ${number(totals.alloc_space)} bytes, ${seen.length} measures, ` +
    `${data.pps.length} program points`);
} finally {
  await browser.close();
}
