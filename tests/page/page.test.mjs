#!/usr/bin/env node
// test: the page in headless Chromium: real clicks, the keyboard, both colour schemes, a server that stops
// tier: full
// timeout: 240
//
// Needs chromium (a Debian package) and playwright-core, which is fetched into the build folder if it is not there.
// Screenshots to look at are left in the build folder: page-*.png.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const top = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const build = process.env.HALUT_BUILD ?? path.join(top, "build");
const chromiumPath = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find(existsSync);

function skip(why) {
  console.log(`skip: ${why}`);
  process.exit(77);
}

function playwright() {
  const folder = path.join(build, "playwright");
  if (!existsSync(path.join(folder, "node_modules/playwright-core"))) {
    mkdirSync(folder, { recursive: true });
    const options = ["--no-save", "--ignore-scripts", "--no-audit", "--no-fund"];
    try {
      execFileSync("npm", ["install", "--prefix", folder, ...options, "playwright-core"], { timeout: 90000 });
    } catch {
      skip("playwright-core cannot be installed");
    }
  }
  return createRequire(path.join(folder, "x.js"))("playwright-core");
}

// What is shipped, and the small network of the golden files, so that there always is one.
const folder = path.join(build, "page-models");
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
for (const name of readdirSync(path.join(top, "models")).filter((file) => file.endsWith(".safetensors"))) {
  copyFileSync(path.join(top, "models", name), path.join(folder, name));
}
copyFileSync(path.join(top, "models/golden/residual.safetensors"), path.join(folder, "residual.safetensors"));

function startDaemon(address) {
  const options = ["--listen", address, "--models", folder, "--backend", "both"];
  const daemon = spawn(path.join(build, "halutd"), options);
  const ended = new Promise((resolve) => daemon.on("exit", resolve));
  const url = new Promise((resolve, reject) => {
    ended.then((code) => reject(new Error(`the daemon ended with ${code}`)));
    for (const stream of [daemon.stdout, daemon.stderr]) {
      createInterface(stream).on("line", (line) => {
        const found = /http:\/\/127[\d.]+:\d+/.exec(line);
        if (found) resolve(found[0]);
      });
    }
  });
  const stop = () => {
    daemon.kill("SIGTERM");
    return ended;
  };
  return url.then((at) => ({ url: at, stop }));
}

if (chromiumPath === undefined) skip("chromium is not installed");
const { chromium } = playwright();
let daemon = await startDaemon("127.0.0.1:0");
const browser = await chromium.launch({ executablePath: chromiumPath, args: ["--no-sandbox"] });
const problems = []; // errors of scripts, and what the policy refused
const page = await browser.newPage({ viewport: { width: 1200, height: 900 } });
page.on("pageerror", (error) => problems.push(error.message));
page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
const shot = (name) => page.screenshot({ path: path.join(build, `page-${name}.png`), fullPage: true });
const tests = [];
const test = (name, run) => tests.push([name, run]);
let skips = 0;
const skipped = (why) => {
  skips++;
  console.log(`skip: ${why}`);
};
let models = [];

test("loads, under a policy that allows nothing from elsewhere", async () => {
  const answer = await page.goto(daemon.url);
  assert.equal(answer.status(), 200);
  const policy = answer.headers()["content-security-policy"];
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe/);
  await page.waitForFunction(() => /\d+ models? served/.test(document.getElementById("state").textContent));
  models = (await (await fetch(`${daemon.url}/v1/models`)).json()).models;
  assert.deepEqual(problems, []);
});

test("moves between tabs with the keyboard", async () => {
  await page.getByRole("tab", { name: "Picture" }).focus();
  await page.keyboard.press("ArrowRight");
  assert.equal(await page.locator("#panel-matrix").isVisible(), true);
  assert.equal(await page.locator("#panel-picture").isVisible(), false);
  assert.equal(await page.evaluate(() => document.activeElement.id), "tab-matrix");
  await page.keyboard.press("End");
  assert.equal(await page.locator("#panel-live").isVisible(), true);
  await page.keyboard.press("ArrowRight");
  assert.equal(await page.locator("#panel-picture").isVisible(), true);
});

test("names every control for a screen reader", async () => {
  for (const tab of ["tab-picture", "tab-matrix", "tab-live"]) {
    await page.click(`#${tab}`);
    const nameless = await page.evaluate(() =>
      [...document.querySelectorAll("button, select, textarea, input, canvas, svg")]
        .filter((one) => one.checkVisibility())
        .filter((one) => {
          const said = one.getAttribute("aria-label") ?? one.labels?.[0]?.textContent ?? one.textContent;
          return said.trim() === "";
        })
        .map((one) => one.outerHTML.slice(0, 80)),
    );
    assert.deepEqual(nameless, []);
  }
});

test("classifies a chosen picture, the same on both backends", async () => {
  await page.click("#tab-picture");
  await page.selectOption("#model", "golden-residual");
  await page.setInputFiles("#file", path.join(top, "models/photo/cat.jpg"));
  await page.getByRole("img", { name: "The picture reduced to 16 by 16 pixels" }).waitFor();
  await page.locator("#labels tbody tr").first().waitFor();
  assert.match(await page.textContent("#phases"), /compute/);
  await page.click("#compare");
  await page.getByText("All say exactly the same: cpu ").waitFor();
  const again = page.waitForResponse((one) => one.url().includes("/v1/classify"));
  await page.check('[name="fit"][value="squash"]');
  assert.equal((await again).status(), 200);
  await shot("picture");
});

test("sends the pixels that the server would have made", async () => {
  // A PNG of another shape, whole to the server and through the page's own filter: the same answer.
  const file = path.join(top, "tests/images/wide.png");
  const query = `model=golden-residual&fit=crop&top=10`;
  const body = readFileSync(file);
  const wanted = await (await fetch(`${daemon.url}/v1/classify?${query}`, { method: "POST", body })).json();
  await page.check('[name="fit"][value="crop"]');
  const answer = page.waitForResponse((one) => one.url().includes("/v1/classify"));
  await page.setInputFiles("#file", file);
  const got = await (await answer).json();
  assert.deepEqual(got.top, wanted.top.slice(0, got.top.length));
});

test("recognises the cat", async () => {
  if (!models.some((model) => model.name === "resnet9-cifar10")) return skipped("no resnet9-cifar10 here");
  await page.selectOption("#model", "resnet9-cifar10");
  await page.setInputFiles("#file", path.join(top, "models/photo/cat.jpg"));
  await page.getByRole("img", { name: "The picture reduced to 32 by 32 pixels" }).waitFor();
  await page.getByText(/^cat, .*resnet9-cifar10/).waitFor();
});

test("says when a file is no picture", async () => {
  await page.setInputFiles("#file", path.join(top, "LICENSE"));
  await page.getByText("no picture that this browser can read").waitFor();
});

test("multiplies generated rows, and compares with the exact product", async () => {
  await page.click("#tab-matrix");
  await page.selectOption("#product", "signal");
  await page.click("#generate-a");
  await page.click("#multiply");
  await page.getByRole("img", { name: "A·B, looked up" }).waitFor();
  const { columns, outputs } = models.find((model) => model.name === "signal");
  await page.click("#panel-matrix summary");
  const b = Array.from({ length: columns }, (_, d) => Array.from({ length: outputs }, (_, m) => d - m).join(" "));
  await page.fill("#matrix-b", b.join("\n"));
  await page.click("#multiply");
  await page.getByRole("img", { name: "difference" }).waitFor();
  await page.getByText("Squared error over squared exact values").waitFor();
  await shot("matrix");
});

test("names the line and value that is no number", async () => {
  await page.fill("#matrix-a", "1 2\n3 x\n");
  await page.click("#multiply");
  await page.getByText("A: line 2, value 2 is no number").waitFor();
  await page.fill("#matrix-a", "1 2\n3 4\n");
  await page.fill("#matrix-b", "");
  await page.click("#multiply");
  await page.locator("#matrix-result .bad").waitFor(); // the server's own words: wrong number of columns
});

test("draws charts that move", async () => {
  await page.click("#tab-live");
  const points = () => page.locator("#charts polyline").first().getAttribute("points");
  await page.waitForFunction(() => document.querySelector("#charts polyline").points.numberOfItems >= 2);
  await page.click("#pause");
  const before = await points();
  await page.waitForTimeout(1500);
  assert.equal(await points(), before);
  await page.click("#pause");
  const moved = (old) => document.querySelector("#charts polyline").getAttribute("points") !== old;
  await page.waitForFunction(moved, before);
  await shot("live");
});

test("fits a phone in the dark", async () => {
  await page.emulateMedia({ colorScheme: "dark" });
  await page.setViewportSize({ width: 390, height: 800 });
  for (const tab of ["tab-picture", "tab-matrix", "tab-live"]) {
    await page.click(`#${tab}`);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wide <= 0, `${tab}: ${wide} pixels too wide`);
  }
  const paper = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  assert.equal(paper, "rgb(21, 24, 28)");
  await shot("phone");
});

test("survives the server's stop and goes on after its return", async () => {
  assert.deepEqual(problems.filter((text) => !/400|404/.test(text)), []);
  await page.click("#tab-live");
  const { port } = new URL(daemon.url);
  assert.equal(await daemon.stop(), 0);
  await page.getByText("no metrics:").waitFor();
  daemon = await startDaemon(`127.0.0.1:${port}`);
  await page.getByText("once a second while this tab is open").waitFor();
});

let failed = 0;
for (const [name, run] of tests) {
  try {
    await run();
  } catch (error) {
    failed++;
    console.log(`${name}: ${error.stack}`);
  }
}
await browser.close();
await daemon.stop();
console.log(`${tests.length - failed - skips} passed, ${failed} failed, ${skips} skipped`);
process.exit(failed === 0 ? 0 : 1);
