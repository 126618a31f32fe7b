"""Fuzzes the readers in worker processes: ``python tests/fuzz/run.py --count 100000 [--reader NAME ...]``.

A worker has a bound of address space and dies of a case that takes longer than 10 s; the next one goes on behind that
case. Counted are tracebacks, hangs, crashes and peaks over 1 GB; the files of such cases are kept in ``--keep``. Exits
with 1 if there were any. ``--case READER:INDEX`` writes one case and reads it in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from driver import LONGEST_S, Fuzzer, load_readers

PEAK = 1 << 30
SPACE = 3 << 30
BATCH = 1000


def peak_bytes() -> int:
    """Greatest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bound_memory() -> None:
    """Allow 3 GB of address space beyond what is in use; where the system does not say how much, nothing is bound."""
    with contextlib.suppress(OSError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + SPACE, used + SPACE))


def work(name: str, seed: int, first: int, last: int, folder: Path) -> None:
    """Run the cases from ``first`` up to ``last``; write each index to a file before it, and findings to stdout."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    fuzzer = Fuzzer(name, folder, seed)
    for data in fuzzer.valid:
        assert fuzzer.run(data) == ("read", ""), fuzzer.run(data)
    bound_memory()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even within a library
    counts: Counter[str] = Counter()
    slowest, at = 0.0, folder / "at"
    for index in range(first, last):
        at.write_text(str(index))
        data, before, start = fuzzer.case(index), peak_bytes(), time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
        outcome, finding = fuzzer.run(data)
        signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.monotonic() - start)
        if finding:
            report(kind="memory" if finding.startswith("MemoryError") else "traceback", index=index, text=finding)
        counts[outcome] += 1
        if (grown := peak_bytes() - before) > PEAK:
            report(kind="memory", index=index, text=f"a peak of {grown / 1e9:.1f} GB")
            report(counts=counts, slowest=slowest, next=index + 1)
            return
    report(counts=counts, slowest=slowest, next=last)


def report(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def manage(name: str, seed: int, first: int, last: int, keep: Path | None) -> tuple[Counter[str], list[str], float]:
    """Run a batch in as many workers as it takes. Returns counts, findings, and the slowest case in seconds."""
    counts: Counter[str] = Counter()
    findings: list[str] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        while first < last:
            command = [sys.executable, __file__, "--worker", name, str(seed), str(first), str(last), made]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            bad = [(line["kind"], line["index"], line["text"]) for line in lines if "kind" in line]
            summary = next((line for line in lines if "next" in line), None)
            if summary is None:  # it died; the cases before are counted as they were not summed up
                if not (folder / "at").exists():
                    raise SystemExit(f"the worker of {name} did not begin:\n{done.stderr}")
                index = int((folder / "at").read_text())
                hang = done.returncode == -signal.SIGALRM
                bad.append(("hang" if hang else "crash", index, f"exit status {done.returncode}"))
                summary = {"counts": {"before a death": index - first}, "slowest": LONGEST_S, "next": index + 1}
            counts.update(summary["counts"])
            slowest = max(slowest, summary["slowest"])
            for kind, index, text in bad:
                counts[kind] += kind != "traceback"
                findings.append(f"{kind}: {name}:{index} (seed {seed}): {text}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    fuzzer = Fuzzer(name, folder / "again", seed)
                    (keep / f"{name}-{seed}-{index}{fuzzer.reader.suffix}").write_bytes(fuzzer.case(index))
            first = summary["next"]
    return counts, findings, slowest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="cases, all readers together")
    parser.add_argument("--reader", action="append", help="only this one (may be given again)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    parser.add_argument("--case", metavar="READER:INDEX", help="write and read one case")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        name, seed, first, last, folder = given.worker
        work(name, int(seed), int(first), int(last), Path(folder))
        return 0
    if given.case:
        name, index = given.case.split(":")
        fuzzer = Fuzzer(name, given.keep or Path(tempfile.mkdtemp()), given.seed)
        outcome, finding = fuzzer.run(fuzzer.case(int(index)))
        print(fuzzer.path, outcome, finding)
        return int(bool(finding))
    names = given.reader or sorted(load_readers())
    each = -(-given.count // len(names))
    batches = [(name, first, min(first + BATCH, each)) for name in names for first in range(0, each, BATCH)]
    total = {name: Counter[str]() for name in names}
    slow, seconds, all_findings = Counter[str](), Counter[str](), []
    with ThreadPoolExecutor(given.jobs) as pool:

        def one(batch: tuple[str, int, int]) -> tuple[str, float, tuple[Counter[str], list[str], float]]:
            start = time.monotonic()
            result = manage(batch[0], given.seed, batch[1], batch[2], given.keep)
            return batch[0], time.monotonic() - start, result

        for name, took, (counts, findings, slowest) in pool.map(one, batches):
            total[name].update(counts)
            slow[name] = max(slow[name], slowest)
            seconds[name] += took
            all_findings += findings
            for finding in findings:
                print(finding, flush=True)
            print(f"{name}: {sum(seconds.values()):.0f} s, {len(all_findings)} findings", file=sys.stderr, flush=True)
    for name in names:
        print(f"{name}: {each} cases in {seconds[name]:.0f} s, slowest {slow[name]:.2f} s, {dict(total[name])}")
    return int(bool(all_findings))


if __name__ == "__main__":
    sys.exit(main())
