"""How far a comparison is and how long the rest takes: from what its cells took, and before that from the costs of models."""

import math
import statistics
import time

from recbole_diffusion.settings.properties import load_yaml, properties_dir, property_file, property_names

TYPICAL_SIZE = 200_000  # interactions of a data set of which nothing is known
SHORT = 30  # seconds of a run that says little of the speed of long ones


class Costs:
    """Seconds that a training is expected to take.

    What is known of a row counts first: the mean of its cells on the same data set, then on others by their interactions. A row
    without any has the cost of its model in ``properties/costs.yaml``, times how much slower this machine and these settings were
    than that for the rows that there are: their geometric mean, in which a row of seconds weighs little.

    Args:
        results (Iterable[dict]): finished runs.
    """

    def __init__(self, results=()):
        self.models = load_yaml(properties_dir() / "costs.yaml")
        self.usual = statistics.median(self.models.values())
        self.sizes = expected_sizes()
        self.seen = []  # row, data set, model, seconds
        for result in results:
            self.learn(result)

    def learn(self, result):
        """Take a finished run into account; a cell that failed says nothing about the others."""
        seconds = sum(result.get("seconds", {}).values())
        if seconds > 0:
            size = result.get("dataset_counts", {}).get("interactions")
            self.sizes.setdefault(result["dataset"], size or TYPICAL_SIZE)
            self.seen.append((result["row"], result["dataset"], result["model"], seconds))

    def prior(self, model, dataset):
        """Seconds by the table of costs, of the machine that it was measured on."""
        return self.models.get(model, self.usual) * self.sizes.get(dataset, TYPICAL_SIZE) / 1e5

    def pace(self):
        """How many times slower than the table of costs the cells were, or None before the first."""
        rows = {}
        for row, dataset, model, seconds in self.seen:
            prior = self.prior(model, dataset)
            rows.setdefault(row, []).append((math.log(seconds / prior), prior / (prior + SHORT)))
        means = [[statistics.fmean(values) for values in zip(*found)] for found in rows.values()]
        weight = sum(weight for _, weight in means)
        return math.exp(sum(ratio * weight for ratio, weight in means) / weight) if means else None

    def expected(self, cell):
        """Seconds of a cell (row, model, data set), or by the table of costs before anything is known."""
        same = [seconds for row, dataset, _, seconds in self.seen if (row, dataset) == (cell.row, cell.dataset)]
        if same:
            return statistics.fmean(same)
        size = self.sizes.get(cell.dataset, TYPICAL_SIZE)
        rates = [seconds / self.sizes[dataset] for row, dataset, _, seconds in self.seen if row == cell.row]
        if rates:
            return statistics.fmean(rates) * size
        return self.prior(cell.model, cell.dataset) * (self.pace() or 1)


def expected_sizes():
    """Data set -> interactions, of those whose properties tell."""
    counts = {name: load_yaml(property_file("dataset", name)).get("expected_counts") for name in property_names("dataset")}
    return {name: found["interactions"] for name, found in counts.items() if found}


class Progress:
    """What is done, what is left and how long that takes.

    Args:
        cells (list[Cell]): what is missing.
        kept (list[dict]): results that are there; they tell how long a row takes.
        jobs (int): runs side by side.
        order (str): ``given``, or ``cost`` = the first seed of all rows first, cheap ones before dear ones.
    """

    def __init__(self, cells, kept, jobs, order="given"):
        self.jobs, self.started, self.costs = jobs, time.perf_counter(), Costs(kept)
        self.cells = sorted(cells, key=lambda cell: (cell.seed, self.costs.expected(cell))) if order == "cost" else cells
        self.left = list(self.cells)

    def add(self, cell, result):
        """Note a finished cell."""
        self.left.remove(cell)
        self.costs.learn({**result, **cell.describe()})

    def announce(self, cell):
        """Say which cell comes next, or that others are waited for."""
        if cell is None:
            print(f"waiting for {len(self.left)} cells that other programs run", flush=True)
            return
        print(f"cell {len(self.cells) - len(self.left) + 1} of {len(self.cells)}: {cell}{self.time_left()}", flush=True)

    def report(self, cell, result):
        """Say that a cell is over."""
        done = len(self.cells) - len(self.left)
        state = f"failed, {result['error']}" if "error" in result else "done"
        passed = format_duration(time.perf_counter() - self.started)
        print(f"{done} of {len(self.cells)} after {passed}: {cell} {state}{self.time_left()}", flush=True)

    def time_left(self):
        """``, about 12 min left``, or nothing before the first cell."""
        if not self.costs.seen:
            return ""
        return f", about {format_duration(self.seconds_left())} left"

    def seconds_left(self):
        """Seconds until all cells are done: their sum shared by the jobs, but no less than the longest takes."""
        each = [self.costs.expected(cell) for cell in self.left]
        return max(sum(each) / min(self.jobs, max(1, len(each))), max(each, default=0))


def format_duration(seconds):
    """Rounded to what matters: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
