"""The gallery shows what the notebooks keep."""

import unittest

import gallery


class Gallery(unittest.TestCase):
    def test_the_page_and_its_pictures_are_those_of_the_notebooks(self):
        docs = gallery.ROOT / "docs"
        self.assertEqual((docs / "gallery.md").read_text(), gallery.page(), "run jupyter/gallery.py")
        for kind in gallery.KINDS:
            kept = (docs / "gallery" / f"{kind.name}.svg").read_text()
            self.assertEqual(kept, gallery.picture(kind), f"{kind.name}: run jupyter/gallery.py")

    def test_a_call_that_no_cell_ends_with(self):
        with self.assertRaisesRegex(LookupError, "shows no figure by nothing"):
            gallery.picture(gallery.Kind("?", "tutorials/01_first_trace", "nothing", "", "x"))


if __name__ == "__main__":
    unittest.main()
