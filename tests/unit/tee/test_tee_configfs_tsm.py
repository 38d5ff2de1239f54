"""Reports through configfs-tsm, from an emulator in memory and from one over FUSE."""

import contextlib
import errno
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_tsm import IMAGE, FakeTsm
from tsm_folder import tsm_folder

from privacy.errors import BackendError, FormatError, UnavailableError
from privacy.tee.configfs_tsm import ConfigfsTsm, KernelFiles
from privacy.tee.detect import detect
from privacy.tee.parse import parse_quote
from privacy.tee.quoter import TsmAttester
from privacy.tee.snp import parse_snp_report

DATA = bytes(range(64))
SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture(params=["tdx_guest", "sev_guest"])
def provider(request):
    return request.param


@pytest.fixture
def fake(provider):
    return FakeTsm(provider)


@pytest.fixture
def mount(provider, tmp_path):
    """The folder of an emulator over FUSE."""
    with tsm_folder(tmp_path, provider) as folder:
        yield folder


@pytest.fixture(params=["in memory", "over FUSE"])
def files(request):
    if request.param == "in memory":
        return request.getfixturevalue("fake")
    return KernelFiles(request.getfixturevalue("mount"))


def names(files):
    if isinstance(files, KernelFiles):
        return [path.name for path in files.root.iterdir()]
    return files.names()


def hasty(files, **options):
    return ConfigfsTsm(files, wait_s=0.0001, **options)


def data_of(evidence):
    (item,) = detect(evidence)
    if item.kind == "snp":
        return parse_snp_report(item.raw).report_data
    return parse_quote(item.raw).report.report_data


def test_a_report_is_over_our_data(files, provider):
    found = hasty(files).report(DATA)
    assert (found.provider, found.races) == (provider, 0)
    assert data_of(found.evidence) == DATA
    assert not names(files)


def test_an_snp_report_brings_its_keys_certificate():
    (item,) = detect(hasty(FakeTsm("sev_guest")).report(DATA).evidence)
    assert len(item.certificates) == 1
    assert parse_snp_report(item.raw).measurement == IMAGE.mrtd


def test_an_snp_report_may_come_without_certificates():
    from fake_tsm import snp_provider

    fake = FakeTsm("sev_guest", make=snp_provider(table=False))
    (item,) = detect(hasty(fake).report(DATA).evidence)
    assert not item.certificates


def test_the_privilege_level_is_the_guests_floor():
    (item,) = detect(hasty(FakeTsm("sev_guest", floor=2)).report(DATA).evidence)
    assert parse_snp_report(item.raw).vmpl == 2


def test_the_process_that_asks_is_confined_and_ends_with_its_enclave(mount):
    attester = TsmAttester(mount)
    process = Path(f"/proc/{attester._process.pid}")
    evidence = attester.quote(DATA, IMAGE)
    assert data_of(evidence) == DATA
    status = (process / "status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    attester.close()
    assert not process.exists()


FAILURES = [
    (errno.ENXIO, UnavailableError, "tsm-no-provider"),
    (errno.EBUSY, UnavailableError, "tsm-busy"),
    (errno.EINVAL, BackendError, "tsm-refused"),
    (errno.EIO, BackendError, "tsm-failed"),
    (errno.EINTR, UnavailableError, "tsm-busy"),
    (errno.EAGAIN, UnavailableError, "tsm-busy"),
    (errno.ETIMEDOUT, UnavailableError, "tsm-timeout"),
    (errno.EACCES, BackendError, "tsm-denied"),
    (errno.EPERM, BackendError, "tsm-denied"),
    (errno.ENOSPC, UnavailableError, "tsm-no-space"),
    (errno.ENOMEM, UnavailableError, "tsm-no-space"),
    (errno.EFBIG, BackendError, "tsm-refused"),
    (errno.EOVERFLOW, BackendError, "tsm-failed"),
]


@pytest.mark.parametrize("step", ["mkdir", "write inblob", "read outblob"])
@pytest.mark.parametrize(("number", "kind", "code"), FAILURES)
def test_every_error_of_the_kernel_has_a_code(step, number, kind, code):
    fake = FakeTsm(faults={step: [number] * 99, "close inblob": []} | others(step))
    with pytest.raises(kind) as caught:
        hasty(fake, attempts=3).report(DATA)
    assert caught.value.code == code
    assert os.strerror(number) in caught.value.message
    assert not fake.entries


def others(step):
    names = "inblob outblob generation provider privlevel auxblob privlevel_floor"
    steps = {"mkdir", "rmdir", "close inblob"}
    steps |= {f"{verb} {name}" for verb in ("read", "write") for name in names.split()}
    return {name: [] for name in steps - {step}}


def test_a_folder_that_is_not_mounted_is_named_as_such(tmp_path):
    with pytest.raises(UnavailableError) as caught:
        hasty(KernelFiles(tmp_path / "tsm" / "report")).report(DATA)
    assert caught.value.code == "tsm-missing"


def test_a_guest_without_provider_is_named_as_such():
    with pytest.raises(UnavailableError) as caught:
        hasty(FakeTsm("")).report(DATA)
    assert caught.value.code == "tsm-no-provider"


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EINTR, errno.EAGAIN])
@pytest.mark.parametrize("step", ["mkdir", "read outblob", "write inblob"])
def test_what_passes_is_tried_again(fake, step, number):
    fake.faults[step] = [number] * 3
    assert data_of(hasty(fake).report(DATA).evidence) == DATA


def test_a_name_that_is_taken_is_exchanged(fake):
    fake.faults["mkdir"] = [errno.EEXIST]
    assert data_of(hasty(fake).report(DATA).evidence) == DATA


def test_a_write_that_the_kernel_lost_is_noticed(fake):
    fake.faults["close inblob"] = [errno.EBUSY]
    with pytest.raises(BackendError) as caught:
        hasty(fake).report(DATA)
    assert caught.value.code == "tsm-refused"  # there is nothing to report on


def test_a_lost_write_is_noticed_where_another_wrote(fake):
    fake.faults["close inblob"] = [errno.EBUSY]

    def interfere(tsm, entry):
        tsm.entries[entry].data = tsm.entries[entry].data or bytes(64)

    fake.before["read outblob"] = interfere
    found = hasty(fake).report(DATA)
    assert (data_of(found.evidence), found.races) == (DATA, 1)


def test_an_entry_that_someone_removed_is_made_again(fake):
    removals = iter([True, False, False])

    def remove(tsm, entry):
        if next(removals, False):
            tsm.entries.pop(entry)

    fake.before["read outblob"] = remove
    found = hasty(fake).report(DATA)
    assert data_of(found.evidence) == DATA
    assert found.races == 1


@pytest.mark.parametrize("step", ["write inblob", "read outblob", "read provider"])
def test_a_write_of_another_in_between_is_noticed(fake, step):
    interferences = iter([True, True, False])

    def interfere(tsm, entry):
        if next(interferences, False):
            tsm.entries[entry].data = bytes(64)
            tsm.entries[entry].writes += 1

    fake.before[step] = interfere
    found = hasty(fake).report(DATA)
    assert data_of(found.evidence) == DATA
    assert found.races == 2


def test_one_who_interferes_for_ever_ends_the_attempts(fake):
    def interfere(tsm, entry):
        tsm.entries[entry].writes += 1

    fake.before["read outblob"] = interfere
    with pytest.raises(UnavailableError) as caught:
        hasty(fake, attempts=4).report(DATA)
    assert caught.value.code == "tsm-contended"


def test_a_kernel_that_answers_over_other_data_is_refused(fake):
    make = fake.make
    fake.make = lambda data, level: make(bytes(64), level)
    with pytest.raises(UnavailableError) as caught:
        hasty(fake, attempts=2).report(DATA)
    assert caught.value.code == "tsm-contended"


@pytest.mark.parametrize("report", [b"", b"no report"])
def test_reports_that_are_none_are_refused(fake, report):
    fake.make = lambda data, level: (report, b"")
    with pytest.raises(BackendError) as caught:
        hasty(fake).report(DATA)
    assert caught.value.code == "tsm-malformed"


def test_a_table_that_is_none_is_refused():
    fake = FakeTsm("sev_guest")
    make = fake.make
    fake.make = lambda data, level: (make(data, level)[0], b"\1" * 48)
    with pytest.raises(BackendError) as caught:
        hasty(fake).report(DATA)
    assert caught.value.code == "tsm-malformed"


def test_a_provider_that_nobody_knows_is_refused(monkeypatch):
    import fake_tsm

    monkeypatch.setitem(fake_tsm.FILES, "arm_cca_guest", fake_tsm.FILES["tdx_guest"])
    fake = FakeTsm("arm_cca_guest", make=fake_tsm.tdx_provider())
    with pytest.raises(BackendError) as caught:
        hasty(fake).report(DATA)
    assert caught.value.code == "tsm-provider-unknown"


def test_report_data_of_another_length_is_refused(fake):
    with pytest.raises(FormatError):
        hasty(fake).report(DATA[:-1])
    assert not fake.entries


class Meddler:
    """Writes its own data into whatever entry it finds, until it is stopped."""

    def __init__(self, files, *, pause_s):
        self._files, self._pause_s = files, pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self):
        while not self._stop.wait(self._pause_s):
            if there := names(self._files):
                with contextlib.suppress(OSError):
                    self._files.write(random.choice(there), "inblob", b"\xee" * 64)


def contend(files, *, requests, threads):
    """Return how many of the requests were answered over other data, and the races."""

    def one(_):
        data = os.urandom(64)
        found = hasty(files, attempts=40).report(data)
        return data_of(found.evidence) != data, found.races

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(one, range(requests)))
    return sum(wrong for wrong, _ in results), sum(races for _, races in results)


def unchecked(files, *, requests):
    """Return how many requests get other data from a client without any check."""
    wrong = 0
    for i in range(requests):
        data, entry = os.urandom(64), f"unchecked-{i}"
        files.mkdir(entry)
        files.write(entry, "inblob", data)
        wrong += data_of(files.read(entry, "outblob")) != data
        files.rmdir(entry)
    return wrong


@pytest.mark.parametrize("provider", ["tdx_guest"], indirect=True)
def test_contended_requests_never_give_a_wrong_quote(fake):
    with Meddler(fake, pause_s=0.0002):
        assert contend(fake, requests=300, threads=8)[0] == 0
        _, races = contend(fake, requests=300, threads=8)
    assert races > 0


@pytest.mark.parametrize("provider", ["tdx_guest"], indirect=True)
def test_a_client_without_checks_would_take_wrong_quotes(fake):
    def interfere(tsm, entry):
        tsm.entries[entry].data = bytes(64)
        tsm.entries[entry].writes += 1

    fake.before["read outblob"] = interfere
    assert unchecked(fake, requests=3) == 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_contended_requests_give_no_wrong_quote(fake):
    with Meddler(fake, pause_s=0.001):
        wrong, races = contend(fake, requests=5_000, threads=8)
    assert wrong == 0
    assert races > 0


CONTENDER = """
import sys
sys.path.insert(0, sys.argv[1]); sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_tee_configfs_tsm import contend
from privacy.tee.configfs_tsm import KernelFiles
print(*contend(KernelFiles(Path(sys.argv[3])), requests=int(sys.argv[4]), threads=2))
"""


def contend_in_processes(mount, *, requests, processes):
    """Return wrong quotes and races of several processes that ask at once."""
    arguments = [str(SUPPORT), str(Path(__file__).parent), str(mount), str(requests)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    results = [p.communicate()[0].split() for p in running]
    assert [p.returncode for p in running] == [0] * processes
    return sum(int(r[0]) for r in results), sum(int(r[1]) for r in results)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_requests_of_several_processes_give_no_wrong_quote(mount):
    with Meddler(KernelFiles(mount), pause_s=0.005):
        wrong, races = contend_in_processes(mount, requests=1_250, processes=4)
    assert wrong == 0
    assert races > 0
