#!/usr/bin/env node
// test: the page in headless Chromium: real clicks, the keyboard, both colour schemes, a server that stops
// tier: full
// timeout: 400
//
// Needs chromium (a Debian package) and playwright-core, which is fetched into the build folder if it is not there.
// Screenshots to look at are left in the build folder: page-*.png.
import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { Client } from "../../clients/js/halutd.js";

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

function startDaemon(address, more = []) {
  const options = ["--listen", address, "--models", folder, "--backend", backend, ...more];
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

// A build without Verilator has no accelerator to open.
const check = ["--check-config", "--models", folder, "--backend", "both"];
const backend = spawnSync(path.join(build, "halutd"), check).status === 0 ? "both" : "cpu";

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

/** The request for the classification that `act` causes; all that was asked before has been answered by then. */
async function asking(act) {
  await page.locator("#verdict:not([aria-busy])").waitFor();
  const request = page.waitForRequest((one) => one.url().includes("/v1/classify"));
  await act();
  return request;
}

/** What the server answers to the classification that `act` causes. */
const classified = async (act) => (await (await asking(act)).response()).json();

const choose = (file) => page.setInputFiles("#file", path.join(top, file));

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
  await page.getByRole("tab", { name: "Classify" }).focus();
  await page.keyboard.press("ArrowRight");
  assert.equal(await page.locator("#panel-multiply").isVisible(), true);
  assert.equal(await page.locator("#panel-classify").isVisible(), false);
  assert.equal(await page.evaluate(() => document.activeElement.id), "tab-multiply");
  await page.keyboard.press("End");
  assert.equal(await page.locator("#panel-live").isVisible(), true);
  await page.keyboard.press("ArrowRight");
  assert.equal(await page.locator("#panel-classify").isVisible(), true);
});

test("names every control for a screen reader", async () => {
  for (const tab of ["tab-classify", "tab-multiply", "tab-live"]) {
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
  await page.click("#tab-classify");
  await page.selectOption("#model", "golden-residual");
  await choose("models/photo/cat.jpg");
  await page.getByRole("img", { name: "The picture reduced to 16 by 16 pixels" }).waitFor();
  await page.locator("#labels tbody tr").first().waitFor();
  assert.match(await page.textContent("#phases"), /compute/);
  assert.match(await page.textContent("#layers"), /halut5\+add6 \(halut\+add\)/);
  if (await page.locator("#compare").isVisible()) {
    await page.click("#compare");
    await page.getByText(/^cpu and rtl gave the same integers, SHA-256 [0-9a-f]{16}…\.$/).waitFor();
    await page.getByText(/^Accelerator: [\d,]+ cycles, /).waitFor();
  } else {
    skipped("one backend only: nothing to compare");
  }
  const again = await asking(() => page.check('[name="fit"][value="squash"]'));
  assert.equal((await again.response()).status(), 200);
});

/** The numbers on show: what was added, and the sum that is told. */
const entries = () =>
  page.locator("#codebook option").allTextContents().then((all) => all.map((one) => Number(one.split("adds ")[1])));

test("shows how an output was made: every number adds up, and is the server's", async () => {
  await page.locator("#verdict:not([aria-busy])").waitFor();
  await page.locator("#explained:not([aria-busy])").waitFor();
  await page.locator("#explanation svg.tree").waitFor();
  await page.selectOption("#layer", "halut7");
  await page.fill("#at-output", "3");
  const answer = page.waitForResponse((one) => /explain.*layer=halut7.*output=3/.test(one.url()));
  await page.locator("#at-output").press("Tab");
  const told = await (await answer).json();
  await page.getByText("Output 3 at column 7, row 7 of halut7 (it reads add6)").waitFor();
  const shown = await entries();
  assert.equal(shown.length, told.codebooks);
  assert.equal(shown.reduce((a, b) => a + b, 0), told.sum);
  const text = await page.textContent("#explained");
  assert.ok(text.includes(`add up to ${told.sum}.`) && text.endsWith(`The server computed ${told.value}, the same.`));
  // Another pixel, by a click into the map; another codebook, by a click on its bar.
  const box = await page.locator("#layer-map").boundingBox();
  await page.mouse.click(box.x + 1, box.y + box.height - 2);
  await page.getByText("Output 3 at column 0, row 7 of halut7").waitFor();
  await page.locator("#entries rect").nth(2).dispatchEvent("click");
  await page.getByText("Decisions of codebook 2").waitFor();
  assert.equal(await page.locator("#path li").count(), 4);
  const code = (await page.locator("#path li").allTextContents()).map((step) => Number(step.endsWith("right")));
  assert.match(await page.textContent("#path"), new RegExp(`That is prototype ${parseInt(code.join(""), 2)};`));
  await shot("classify");
});

test("classifies a drawing, and the backend that is asked for", async () => {
  await page.click("#panel-classify summary");
  const box = await page.locator("#pad").boundingBox();
  await page.mouse.move(box.x + 50, box.y + 50);
  await page.mouse.down();
  await page.mouse.move(box.x + 200, box.y + 180, { steps: 5 });
  await page.mouse.up();
  const first = await classified(() => page.click("#classify-drawing"));
  if (!(await page.locator("#backend").isVisible())) return skipped("one backend only: none to choose");
  const second = await classified(() => page.selectOption("#backend", "rtl"));
  assert.equal(second.backend, "rtl");
  assert.deepEqual(second.top, first.top);
  await page.getByText(/ on rtl$/).waitFor();
  await page.selectOption("#backend", "cpu");
});

test("is answered for a picture as the server answers for the whole file", async () => {
  const query = `model=golden-residual&fit=crop&top=10`;
  const body = readFileSync(path.join(top, "tests/images/wide.png"));
  const wanted = await (await fetch(`${daemon.url}/v1/classify?${query}`, { method: "POST", body })).json();
  await page.check('[name="fit"][value="crop"]');
  const got = await classified(() => choose("tests/images/wide.png"));
  assert.deepEqual(got.top, wanted.top.slice(0, got.top.length));
});

test("sends the pixels that the server would have made", async () => {
  if (!models.some((model) => model.name === "resnet9-cifar10")) return skipped("no resnet9-cifar10 here");
  await page.selectOption("#model", "resnet9-cifar10");
  const images = path.join(top, "tests/images");
  for (const expected of readdirSync(images).filter((name) => name.includes(".png@"))) {
    const [, file, fit] = /^(.*)@(\w+)\.u8$/.exec(expected);
    if (file === "exif6.png") continue; // turned before it is reduced, not after: some values differ by 1
    await page.check(`[name="fit"][value="${fit}"]`);
    const sent = (await asking(() => choose(`tests/images/${file}`))).postDataBuffer();
    assert.ok(sent.equals(readFileSync(path.join(images, expected))), expected);
  }
  await page.check('[name="fit"][value="crop"]');
});

test("keeps the newest answer when an older one is late", async () => {
  let release;
  const late = new Promise((resolve) => (release = resolve));
  const hold = (route) => late.then(() => route.continue()).catch(() => {}); // it may be gone by then
  await page.route("**/v1/classify*", hold, { times: 1 });
  const older = await asking(() => choose("tests/images/wide.png"));
  await choose("tests/images/exif6.png");
  await page.locator("#verdict:not([aria-busy])").waitFor();
  const shown = await page.textContent("#labels tbody");
  release();
  await older.response(); // null: nobody waits for it
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve))));
  assert.equal(await page.textContent("#labels tbody"), shown);
  assert.equal(older.failure()?.errorText, "net::ERR_ABORTED");
});

test("recognises the cat", async () => {
  if (!models.some((model) => model.name === "resnet9-cifar10")) return skipped("no resnet9-cifar10 here");
  await page.selectOption("#model", "resnet9-cifar10");
  const { top: best } = await classified(() => choose("models/photo/cat.jpg"));
  assert.equal(best[0].label, "cat");
  await page.getByRole("img", { name: "The picture reduced to 32 by 32 pixels" }).waitFor();
  await page.getByText(/^cat, .*resnet9-cifar10/).waitFor();
});

test("says when a file is no picture", async () => {
  await choose("LICENSE");
  await page.getByText("no picture that this browser can read").waitFor();
});

test("multiplies generated rows, and compares with the exact product", async () => {
  await page.click("#tab-multiply");
  await page.selectOption("#product", "signal");
  await page.click("#generate-a");
  await page.click("#multiply");
  await page.getByRole("img", { name: "A·B, looked up" }).waitFor();
  const { columns, outputs } = models.find((model) => model.name === "signal");
  const b = Array.from({ length: columns }, (_, d) => Array.from({ length: outputs }, (_, m) => d - m).join(" "));
  await page.fill("#matrix-b", b.join("\n"));
  await page.click("#multiply");
  await page.getByRole("img", { name: "Difference" }).waitFor();
  await page.getByText("Squared error over squared exact values").waitFor();
  const download = page.waitForEvent("download");
  await page.click("#download");
  const rows = readFileSync(await (await download).path(), "utf8").trim().split("\n");
  assert.equal(rows.length, 16);
  assert.equal(rows[0].split(",").map(Number).filter(Number.isFinite).length, outputs);
});

test("learns a product, shows its progress, and compares it with the exact one", async () => {
  const there = await fetch(`${daemon.url}/v1/learn`, { method: "POST", body: "{}" });
  if (there.status === 404) return skipped("this build does not learn over HTTP");
  await page.click("#generate-pair");
  await page.fill("#learn-name", "from-the-page");
  await page.click("#learn");
  const learned = /^Learned from-the-page; on rows that it had not seen: error 0\.\d+/;
  await page.getByText(learned).waitFor({ timeout: 60000 });
  assert.equal(await page.inputValue("#product"), "from-the-page");
  await page.getByRole("img", { name: "A·B, exact" }).waitFor();
  const said = await page.textContent("#matrix-result");
  const error = Number(/exact values: ([\d.e-]+)\./.exec(said)[1]);
  assert.ok(error > 0 && error < 0.5, said);
  // Learned once more, it is the newest version that is on show, once.
  await page.click("#generate-pair");
  await page.click("#learn");
  await page.getByText(learned).waitFor({ timeout: 60000 });
  const [, told] = /error (0\.\d+)/.exec(await page.textContent("#learned"));
  const [, listed] = /had not seen: ([\d.]+)\.$/.exec(await page.textContent("#product-shape"));
  assert.equal(listed, told);
  assert.equal(await page.locator("#product option", { hasText: "from-the-page" }).count(), 1);
  await shot("multiply");
});

test("cancels what waits to be learned", async () => {
  // Behind a longer job, which is given up as well, so that it cannot be over before the click.
  const client = new Client(daemon.url);
  const noise = (rows, columns) => {
    const data = Float32Array.from({ length: rows * columns }, Math.random);
    return { data, rows, columns };
  };
  const longer = await client.startLearning(noise(100000, 64), noise(64, 64), { name: "longer", codebooks: 1 });
  await page.fill("#learn-name", "given-up");
  await page.click("#learn");
  await page.click("#cancel-learning");
  await page.getByText("given-up: cancelled").waitFor();
  assert.equal((await client.cancel(longer.id)).state, "cancelled");
  const last = (await client.jobs()).at(-1);
  assert.deepEqual([last.name, last.state], ["given-up", "cancelled"]);
});

test("says why nothing can be learned", async () => {
  await page.fill("#matrix-b", "1 2\n3 4");
  await page.click("#learn");
  await page.getByText(/^B has 2 rows, A has \d+ columns$/).waitFor();
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
  for (const tab of ["tab-classify", "tab-multiply", "tab-live"]) {
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
  await page.getByText("The server does not answer. Trying again every two seconds.").waitFor();
  await page.click("#tab-classify");
  await page.click("#classify-drawing");
  await page.locator("#verdict").getByText("The server does not answer.").waitFor({ timeout: 40000 });
  await page.click("#tab-live");
  daemon = await startDaemon(`127.0.0.1:${port}`);
  await page.getByText("once a second while this tab is open").waitFor();
  await page.getByText(/^\d+ models served\.$/).waitFor();
  await page.click("#tab-classify");
  await page.click("#classify-drawing");
  await page.locator("#labels").waitFor();
});

test("asks for the key of a server that wants one", async () => {
  assert.equal(await daemon.stop(), 0);
  const keys = path.join(build, "page-keys");
  writeFileSync(keys, "a-key-for-the-page infer,metrics page\n", { mode: 0o600 });
  daemon = await startDaemon("127.0.0.1:0", ["--keys-file", keys]);
  await page.goto(daemon.url);
  await page.getByText("This server wants an API key.").waitFor();
  await page.fill("#key", "a-key-for-the-page");
  await page.click("#key-form button");
  await page.getByText(/^\d+ models served\.$/).waitFor();
  assert.equal(await page.locator("#key-form").isVisible(), false);
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
