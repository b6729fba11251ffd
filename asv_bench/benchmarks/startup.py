"""What a fresh process pays: the import, the first result with compiled kernels in the cache, and without.

Every measurement is a process of its own (asv's timeraw), so nothing here is warm but the disk.
"""

FIRST_RESULT = """
import numpy as np
import fastmask as fm

random = np.random.default_rng(0)
x = random.standard_normal((8, 50, 16), dtype=np.float32)
weights = [random.standard_normal(shape, dtype=np.float32) for shape in ((16, 96), (32, 96), (2, 96))]
fm.gru(x, *weights, mask=np.arange(50) < random.integers(1, 51, size=(8, 1)))
"""

FIRST_TRAINING = """
import numpy as np
import fastmask as fm

model = fm.Sequential([fm.Input((None, 12)), fm.layers.GRU(32), fm.layers.Dense(9, activation="softmax")])
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(fm.Ragged(np.ones((200, 12), dtype=np.float32), np.arange(0, 201, 20)), np.arange(10) % 9, verbose=0)
"""

EMPTY_CACHE = """
import atexit, os, shutil, tempfile

os.environ["FASTMASK_CACHE_DIR"] = tempfile.mkdtemp()
atexit.register(shutil.rmtree, os.environ["FASTMASK_CACHE_DIR"], ignore_errors=True)
"""


class Startup:
    number = 1
    repeat = (3, 10, 20.0)
    timeout = 300

    def timeraw_import_numpy(self):
        return "import numpy"

    def timeraw_import_fastmask(self):
        return "import fastmask"

    def timeraw_warm_first_result(self):
        return FIRST_RESULT

    def timeraw_warm_first_training(self):
        return FIRST_TRAINING


class ColdStartup:
    number = 1
    repeat = 1
    timeout = 300

    def timeraw_cold_first_result(self):
        return EMPTY_CACHE + FIRST_RESULT

    def timeraw_cold_first_training(self):
        return EMPTY_CACHE + FIRST_TRAINING
