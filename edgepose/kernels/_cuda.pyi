# Addresses are device addresses and streams are handles, both as whole numbers; 0 is the default stream.

LAYOUTS: dict[str, dict[str, int]]

class Graph:
    def launch(self, stream: int) -> None: ...
    def close(self) -> None: ...

def use_device(device: int) -> None: ...
def allocate(bytes: int) -> int: ...
def free(pointer: int) -> None: ...
def copy_in(to: int, source: int, bytes: int, stream: int) -> None: ...
def copy_out(to: int, source: int, bytes: int, stream: int) -> None: ...
def copy_within(to: int, source: int, bytes: int, stream: int) -> None: ...
def create_stream() -> int: ...
def destroy_stream(stream: int) -> None: ...
def synchronize(stream: int) -> None: ...
def begin_capture(stream: int) -> None: ...
def end_capture(stream: int) -> Graph: ...
def crop_normalize(
    sources: int,
    count: int,
    height: int,
    width: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    fill: tuple[float, float, float],
    swap_rb: bool,
    out: int,
    stream: int,
) -> None: ...
def crop_pixels(
    sources: int, count: int, height: int, width: int, rgb: bool, out: int, stream: int
) -> None: ...
def soft_argmax(
    maps: int,
    half: bool,
    count: int,
    height: int,
    width: int,
    beta: float,
    coords: int,
    scores: int,
    covariance: int,
    stream: int,
) -> None: ...
def argmax_offset(
    maps: int,
    half: bool,
    count: int,
    height: int,
    width: int,
    refine: str | None,
    coords: int,
    scores: int,
    stream: int,
) -> None: ...
def quarter_offset(
    maps: int, half: bool, count: int, height: int, width: int, coords: int, out: int, stream: int
) -> None: ...
def flip_average(
    maps: int,
    flipped: int,
    half: bool,
    count: int,
    height: int,
    width: int,
    order: int,
    joints: int,
    shift: bool,
    out: int,
    stream: int,
) -> None: ...
def mirror_planes(images: int, rows: int, width: int, out: int, stream: int) -> None: ...
def mirror_pixels(images: int, rows: int, width: int, out: int, stream: int) -> None: ...

# --- the bottom-up kernels (csrc/cuda/pose_kernels.hpp) ---

class FinalMaps:
    def __init__(
        self,
        planes: int,
        on_host: int,
        flip: int,
        runs: int,
        scales: int,
        tag_count: int,
        heat_parts: int,
        height: int,
        width: int,
        joints: int,
    ) -> None: ...

class Peaks:
    def __init__(
        self, joints: int, top: int, tag_count: int, xy: int, scores: int, tags: int, count: int
    ) -> None: ...

class GroupTask:
    def __init__(
        self,
        peaks: Peaks,
        limit: int,
        left_out_from: int,
        joint_order: int,
        tag_threshold: float,
        use_detection_val: bool,
        ignore_too_much: bool,
        max_persons: int,
        official: bool,
        persons: int,
        scores: int,
        rows: int,
        counts: int,
    ) -> None: ...

class PersonsTask:
    def __init__(
        self,
        persons: int,
        rows: int,
        joints: int,
        stride: int,
        count: int,
        adjust: bool,
        refine: bool,
        peaks: Peaks | None,
    ) -> None: ...

def find_peaks_scratch(maps: FinalMaps, window: int, top: int, threshold: float) -> int: ...
def find_peaks(
    maps: FinalMaps, window: int, top: int, threshold: float, out: Peaks, scratch: int, stream: int
) -> None: ...
def group_scratch(task: GroupTask) -> int: ...
def group(task: GroupTask, scratch: int, stream: int) -> None: ...
def settle_scratch(maps: FinalMaps, task: PersonsTask) -> int: ...
def settle(maps: FinalMaps, task: PersonsTask, scratch: int, stream: int) -> None: ...
