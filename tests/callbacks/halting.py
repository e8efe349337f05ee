"""Runs of the command line that halt at a moment, so that a signal can be sent to them there."""

import json
import os
import time

from tests.processes import exit_status, fork_module, places

QUICK = ["--calibration.alphas", "[]", "--calibration.others", "false", "--calibration.show_table", "false"]


class Run:
    """`svd-lightning VERB` in processes of its own, which halt at a moment of it."""

    def __init__(self, folder, verb, config, *options, halt=None, processes=1) -> None:
        folder.mkdir()
        self.folder, self.logs = folder, [folder / f"log-{rank}" for rank in range(processes)]
        words = [verb, *options] if config is None else self.words(verb, config, *options, processes=processes)
        if halt:
            given = {"moment": halt[0], "call": halt[1], "folder": str(folder)}
            words += ["--trainer.callbacks", json.dumps([{"class_path": "tests.halt.Halt", "init_args": given}])]
        where = places(processes) if processes > 1 else [{}]
        started = zip(self.logs, where, strict=True)
        self.processes = [fork_module("svd_lightning", *words, log=log, **place) for log, place in started]

    def words(self, verb, config, *options, processes):
        """The options of a run in the folder."""
        place = ["--trainer.logger.init_args.save_dir", str(self.folder), "--trainer.devices", str(processes)]
        return [verb, "--config", str(config), *place, *([] if verb == "predict" else QUICK), *options]

    def halted(self):
        """Wait until all processes have come to the moment."""
        for rank, process in enumerate(self.processes):
            while not (self.folder / f"halted-{rank}").exists():
                assert process.is_alive(), self.text()
                time.sleep(0.01)
        return self

    def send(self, sign, *ranks, go=True):
        """Send a signal to these processes, or all; then let the run go on, unless it is to stop there."""
        for rank in ranks or range(len(self.processes)):
            os.kill(self.processes[rank].pid, sign)
        if go:
            (self.folder / "go").touch()
        return self

    def ended(self):
        """Exit codes of all processes, and what they printed."""
        for process in self.processes:
            process.join(100)
        codes = [process.exitcode for process in self.processes]
        exit_status(*self.processes, timeout=1)
        return codes, self.text()

    def text(self):
        return "\n".join(log.read_text() for log in self.logs if log.exists())

    def file(self, name):
        return self.folder / "run/version_0" / name
