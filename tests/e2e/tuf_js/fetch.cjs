// What an app in another language does: trust a root, follow a channel, fetch the model, verify all of it.
// node fetch.cjs URL ROOT_FILE FOLDER MODEL [SALT DEVICE_ID]...   prints JSON, or the error and fails
const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { Updater } = require("tuf-js");

const [url, root, folder, model, ...devices] = process.argv.slice(2);

function bucketPermille(salt, deviceId) {
  const digest = crypto.createHash("sha256").update(`${salt}:${deviceId}`, "utf8").digest();
  return Number(digest.readBigUInt64BE(0) % 1000n);
}

async function main() {
  const metadata = path.join(folder, "metadata");
  const targets = path.join(folder, "targets");
  fs.mkdirSync(metadata, { recursive: true });
  fs.mkdirSync(targets, { recursive: true });
  if (!fs.existsSync(path.join(metadata, "root.json"))) {
    fs.copyFileSync(root, path.join(metadata, "root.json"));
  }
  const updater = new Updater({
    metadataDir: metadata,
    metadataBaseUrl: `${url}/metadata`,
    targetDir: targets,
    targetBaseUrl: `${url}/targets`,
  });

  async function fetched(target) {
    const info = await updater.getTargetInfo(target);
    if (!info) throw new Error(`nobody has signed ${target}`);
    return fs.readFileSync(await updater.downloadTarget(info));
  }

  const channel = JSON.parse(await fetched(`${model}/channels/stable.json`));
  const offered = channel.rollouts.find((rollout) => rollout.rollout_permille === 1000);
  const stem = offered.variant === "default" ? "model" : offered.variant;
  const content = await fetched(`${model}/${offered.version}/${stem}.tflite`);
  const buckets = [];
  for (let i = 0; i < devices.length; i += 2) buckets.push(bucketPermille(devices[i], devices[i + 1]));
  console.log(
    JSON.stringify({
      version: offered.version,
      sha256: crypto.createHash("sha256").update(content).digest("hex"),
      root: JSON.parse(fs.readFileSync(path.join(metadata, "root.json"))).signed.version,
      buckets,
    }),
  );
}

main().catch((error) => {
  console.error(`${error.name}: ${error.message}`);
  process.exitCode = 1;
});
