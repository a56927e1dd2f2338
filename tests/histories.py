"""Random lives of jobs, beside a model of what should become of them.

    python3 tests/histories.py [EXAMPLES]

needs hypothesis.  States compares the state function with its definition, over random histories.
Lives makes, submits, cancels, starts and removes jobs, arrays, and jobs after jobs, while a
scheduler of its own dispatches, ends, requeues, forgets, refuses and fails to answer; after each
look, psik.py must know of each job what the model knows.
"""
import os
import shutil
import sys
import tempfile
import unittest
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import psik  # noqa: E402

FINAL = ("completed", "failed", "canceled")
ORDER = ("new", "queued", "active")
EXAMPLES = int(sys.argv.pop()) if sys.argv[-1:][0].isdigit() else 1000
RUN_PROGRAM = psik.run_program


def state_of_step(rows: Sequence[psik.Row], jobndx: int) -> Optional[str]:
    """By its definition: the first final row counts, else the furthest; None if there is no row.

    A `canceled` row of step 0 is also one of each step that has a row before it.
    """
    own: List[str] = []
    for row in rows:
        if row.jobndx == jobndx or (own and row.jobndx == 0 and row.state == "canceled"):
            own.append(row.state.value)
    final = [state for state in own if state in FINAL]
    return final[0] if final else max(own, key=ORDER.index) if own else None


def state_of_tasks(states: Sequence[str]) -> str:
    """The state of an array whose tasks are in these states."""
    for state in ("active", "queued", "new", "failed", "canceled"):
        if state in states:
            return state
    return "completed"


class States(unittest.TestCase):
    """The state function."""

    rows = st.lists(st.builds(
        psik.Row, st.floats(0, 100), st.integers(0, 7), st.sampled_from(psik.JobState),
        st.integers(0, 200)), max_size=20)

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(rows)
    def test_of_a_job(self, rows: List[psik.Row]) -> None:
        rows = [psik.Row(0.0, 0, psik.JobState.new, 0)] + rows
        steps = psik.Steps(rows)
        numbers = {row.jobndx for row in rows}
        known = {number: state_of_step(rows, number) for number in numbers
                 if number or len(numbers) == 1}
        self.assertEqual({number: row.state.value for number, row in steps.states.items()}, known)
        assert steps.latest
        self.assertEqual(steps.latest.state.value, known[max(known)])

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(rows, st.integers(2, 4))
    def test_of_an_array(self, rows: List[psik.Row], tasks: int) -> None:
        rows = [psik.Row(0.0, 0, psik.JobState.new, tasks)] + [row for row in rows if row.jobndx]
        steps = psik.Steps(rows)
        latest = {task: max([row.jobndx for row in rows if row.jobndx % tasks == task % tasks
                             and row.jobndx], default=0) for task in range(1, tasks + 1)}
        states = [state_of_step(rows, step) if step else "new" for step in latest.values()]
        assert steps.latest
        self.assertEqual(steps.latest.state.value, state_of_tasks([str(each) for each in states]))
        self.assertEqual({state: number for state, number in steps.counts().items() if number},
                         {state: states.count(state) for state in states})


class Scheduler:
    """Takes the place of a scheduler's programs."""

    def __init__(self) -> None:
        self.jobs: Dict[str, List[Any]] = {}    # {native id: [tag, state, exit status]}
        self.dispatched: Set[str] = set()
        self.last, self.mood = 0, "fine"

    def run(self, argv: Sequence[str], timeout_s: Any, *args: Any, **options: Any) -> Any:
        """As run_program()."""
        name = os.path.basename(argv[0])
        if "/scripts/" not in argv[0]:
            return RUN_PROGRAM(argv, timeout_s, *args, **options)
        return getattr(self, name)(argv, options.get("text", ""))

    def array(self, argv: Sequence[str], text: str) -> Any:
        """How large an array may be."""
        return psik.Finished(0, "1000 list\n", "")

    def submit(self, argv: Sequence[str], text: str) -> Any:
        """Take a job, or refuse it, or say nothing."""
        mood, self.mood = self.mood, "fine"
        jobid = argv[0].split("/")[-3]
        offset, indices = int(argv[1].rstrip("+")), psik.Tasks.of_text(argv[3] or "0").numbers
        log = os.path.dirname(os.path.dirname(argv[0])) + "/log/submit.%d" % (offset + indices[0])
        psik.write_file(log, "no\n" * (mood == "refuses"))
        if mood == "refuses":
            return psik.Finished(1, "", "no")
        self.last += 1
        native = str(self.last * 1000)
        for index in indices:
            self.jobs[str(int(native) + index)] = ["psik-%s.%d" % (jobid, offset + index), "queued",
                                                   "-"]
        if mood == "is silent":
            raise TimeoutError("no answer")
        return psik.Finished(0, native + "\n", "")

    def poll(self, argv: Sequence[str], text: str) -> Any:
        """All that it has; a task is known by the array's number until it is dispatched."""
        lines = ["%s %s %s %s" % (native if native in self.dispatched
                                  else int(native) // 1000 * 1000, state, code, tag)
                 for native, (tag, state, code) in self.jobs.items()]
        return psik.Finished(0, "\n".join(lines), "")

    def cancel(self, argv: Sequence[str], text: str) -> Any:
        """End what it is told."""
        for line in text.splitlines():
            native = line.split()[0].split("+")[0]
            for known, job in self.jobs.items():
                same = known == native or int(known) // 1000 * 1000 == int(native)
                if same and job[1] in ("queued", "active"):
                    job[1:] = ["failed", "143"]
        return psik.Finished(0, "", "")


class Life:
    """What the model knows of a job: of each step what became of it, and what it waits for."""

    def __init__(self, job: Any, tasks: int, after: List[Tuple[str, "Life"]]) -> None:
        self.job, self.tasks, self.after = job, tasks, after
        self.steps: Dict[int, str] = {}
        self.waits, self.is_canceled, self.is_gone = bool(after), False, False
        self.lost: List[int] = []       # submitted, without an answer

    @property
    def state(self) -> str:
        """Its state."""
        if self.is_gone or not self.steps:
            return "canceled" if self.is_canceled else "new"
        if self.tasks == 1:
            return self.steps[max(self.steps)]
        latest = {step % self.tasks: step for step in sorted(self.steps)}
        states = [self.steps[step] for step in latest.values()]
        return state_of_tasks(states + ["canceled" if self.is_canceled else "new"] * (
            len(latest) < self.tasks))

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL and not self.lost

    def met(self) -> Optional[bool]:
        """As Dependency.is_met(), of all that it waits for."""
        found = [how == "any" if other.is_gone else None if not other.is_over else
                 how == "any" or (other.state == "completed") == (how == "ok")
                 for how, other in self.after]
        return False if False in found else None if None in found else True

    def submitted(self, steps: Sequence[int], mood: str) -> None:
        """Its next steps are handed to the scheduler."""
        self.waits = False
        if mood == "is silent":
            self.lost = list(steps)
        self.steps.update({step: "failed" if mood == "refuses" else "queued" for step in steps
                           if mood != "is silent"})


class Lives(RuleBasedStateMachine):
    """Jobs, and what happens to them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="psik-lives-")
        os.mkdir(self.folder + "/sim")
        for name in ("submit", "job", "cancel", "poll", "array"):
            psik.write_file(self.folder + "/sim/" + name, "#!@shell@\n")
        self.config = psik.Config(
            prefix=self.folder + "/jobs", templates=self.folder, rc_path="/bin/sh",
            backend=psik.BackendConfig("sim"), poll_interval_s=0, poll_grace_s=0)
        self.scheduler, self.lives = Scheduler(), []    # type: Tuple[Scheduler, List[Life]]
        self.mocks = [mock.patch("psik.run_program", self.scheduler.run),
                      mock.patch("psik.LISTED_S", 0), mock.patch("psik.complain")]
        for each in self.mocks:
            each.start()

    def teardown(self) -> None:
        for each in self.mocks:
            each.stop()
        shutil.rmtree(self.folder)

    # Who is meant.

    def there(self) -> List[Life]:
        """The jobs that were not removed."""
        return [life for life in self.lives if not life.is_gone]

    def pick(self, number: int, *states: str) -> Optional[Tuple[Life, int, str]]:
        """A step in one of these states at the scheduler: (job, step, native id)."""
        found = []
        for life in self.there():
            for native, (tag, state, _) in self.scheduler.jobs.items():
                owner, _, step = tag.rpartition(".")
                if owner == life.job.tag and state in states:
                    found.append((life, self.step_of(life, int(step)), native))
        return found[number % len(found)] if found else None

    @staticmethod
    def step_of(life: Life, step: int) -> int:
        """The step that a scheduler's job runs which was submitted as this one: it may be a later.
        """
        later = [each for each in life.steps if each >= step and (each - step) % life.tasks == 0]
        return max(later, default=step)

    # What users do.

    @precondition(lambda self: len(self.lives) < 6)
    @rule(tasks=st.sampled_from((1, 1, 3)), after=st.lists(
        st.tuples(st.sampled_from(("ok", "any", "notok")), st.integers(0, 5)), max_size=2))
    def make(self, tasks: int, after: List[Tuple[str, int]]) -> None:
        there = self.there()
        chosen = {there[number % len(there)].job.jobid: (how, there[number % len(there)])
                  for how, number in after if there}
        job = psik.create(self.config, psik.JobSpec(
            script="#!/bin/sh\n", array=str(tasks) if tasks > 1 else None,
            after=["%s:%s" % (how, life.job.jobid) for how, life in chosen.values()]))
        self.lives.append(Life(job, tasks, list(chosen.values())))

    @precondition(lambda self: self.there())
    @rule(number=st.integers(0, 5), failed=st.booleans())
    def start(self, number: int, failed: bool) -> None:
        life = self.there()[number % len(self.there())]
        mood = self.scheduler.mood
        before = len(life.job.rows())
        try:
            psik.submit_next(self.config, life.job, failed_only=failed)
        except psik.ConflictError:
            assert len(life.job.rows()) == before or life.is_canceled or life.after
            self.look()
            return
        except psik.BackendError:
            assert mood != "fine" or life.lost, (mood, life.job.rows())
        self.take_in(life, mood)

    def take_in(self, life: Life, mood: str) -> None:
        """Let the model know what was submitted; the history's new rows must be just that."""
        rows = [row for row in life.job.rows() if row.jobndx and row.jobndx not in life.steps]
        steps = sorted({row.jobndx for row in rows})
        if not steps and mood == "is silent" and not life.lost:
            pending = [int(tag.rpartition(".")[2]) for tag, state, _ in
                       self.scheduler.jobs.values() if tag.startswith(life.job.tag + ".")]
            steps = [step for step in pending if step not in life.steps]
        if life.lost and steps:     # found by its tag meanwhile
            life.lost, mood = [], "fine"
        elif steps:
            assert life.steps or life.met(), "it was to wait"   # it waits once
        if steps:
            life.submitted(steps, mood)
        else:
            life.waits = bool(life.after) and not life.steps
        self.look()

    @precondition(lambda self: self.there())
    @rule(number=st.integers(0, 5))
    def cancel(self, number: int) -> None:
        life = self.there()[number % len(self.there())]
        psik.cancel(life.job)
        for step in life.lost:
            life.steps[step] = "queued"
        is_open = not life.is_over
        life.lost = []
        for step, state in life.steps.items():
            if state in ("queued", "active"):
                life.steps[step] = "canceled"
        life.is_canceled = life.is_canceled or is_open
        life.waits = False
        for job in self.scheduler.jobs.values():
            assert not (job[0].startswith(life.job.tag + ".") and job[1] in (
                "queued", "active")), "it lives on"
        self.look()

    @precondition(lambda self: any(life.is_over for life in self.there()))
    @rule(number=st.integers(0, 5))
    def remove(self, number: int) -> None:
        over = [life for life in self.there() if life.is_over]
        life = over[number % len(over)]
        try:
            psik.remove(life.job)
        except psik.ConflictError:
            assert any(other.waits and life in [each for _, each in other.after]
                       for other in self.there())
            return
        life.is_gone = True
        self.look()

    # What the scheduler does.

    @rule(number=st.integers(0, 50))
    def dispatch(self, number: int) -> None:
        found = self.pick(number, "queued")
        if found and not found[0].lost:
            life, step, native = found
            self.scheduler.jobs[native][1] = "active"
            self.scheduler.dispatched.add(native)
            psik.reached(life.job, step, psik.JobState.active, int(native))
            life.steps[step] = "active"

    @rule(number=st.integers(0, 50), code=st.sampled_from((0, 0, 1, 3)), is_told=st.booleans())
    def end(self, number: int, code: int, is_told: bool) -> None:
        found = self.pick(number, "active")
        if found:
            life, step, native = found
            state = "failed" if code else "completed"
            self.scheduler.jobs[native][1:] = [state, str(code)]
            life.steps[step] = state
            if is_told:
                psik.reached(life.job, step, psik.STATES[state], code)
            else:
                self.look()

    @rule(number=st.integers(0, 50))
    def requeue(self, number: int) -> None:
        found = self.pick(number, "active")
        if found:
            life, step, native = found
            self.scheduler.jobs[native][1] = "queued"
            life.steps[step] = "failed"
            life.steps[step + life.tasks] = "queued"
            self.look()

    @rule(number=st.integers(0, 50))
    def forget(self, number: int) -> None:
        found = self.pick(number, "active", "queued")
        if found and not found[0].lost:
            life, step, native = found
            del self.scheduler.jobs[native]
            life.steps[step] = "failed"
            self.look()

    @rule(mood=st.sampled_from(("refuses", "is silent")))
    def be_moody(self, mood: str) -> None:
        self.scheduler.mood = mood

    # Looking.

    @rule()
    def look(self) -> None:
        """Look twice, as users do; then psik.py must know what the model knows."""
        for _ in range(2):
            pairs = [(life.job, life.job.rows()) for life in self.there()]
            psik.reconcile(self.config, pairs, force=True)
            psik.release_all(self.config)
        for life in self.there():
            if life.lost:   # they are found by their tags
                life.steps.update(dict.fromkeys(life.lost, "queued"))
                life.lost = []
        self.release()
        for life in self.there():
            steps = psik.Steps(life.job.rows())
            assert steps.latest
            known = {step: row.state.value for step, row in steps.states.items() if step}
            assert known == life.steps, (life.job.jobid, known, life.steps, life.job.rows())
            assert steps.latest.state.value == life.state, (steps.latest, life.state)

    def release(self) -> None:
        """Let the model submit, or cancel, what need not wait any more."""
        changed = True
        while changed:
            changed = False
            for life in self.there():
                if life.waits and psik.Held(life.job).read().get("environment") is None \
                        and len(life.job.rows()) == 1:
                    continue    # nobody has started it
                met = life.met() if life.waits else None
                rows = life.job.rows()
                if met is False:
                    life.waits, life.is_canceled, changed = False, True, True
                elif met:
                    steps = sorted({row.jobndx for row in rows if row.jobndx})
                    assert steps, "it was not released"
                    states = {row.jobndx: row.state.value for row in rows}
                    life.submitted(steps, "refuses" if states[steps[0]] == "failed" else "fine")
                    changed = True


class TestLives(unittest.TestCase):
    """The machine, so many times."""

    def test_lives(self) -> None:
        run_state_machine_as_test(Lives, settings=settings(
            max_examples=EXAMPLES, stateful_step_count=25, deadline=None,
            suppress_health_check=list(HealthCheck)))


if __name__ == "__main__":
    unittest.main()
