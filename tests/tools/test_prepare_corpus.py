# SPDX-License-Identifier: Apache-2.0
"""Tests of tools/prepare_corpus.py on small inline pages and on small packages built here with dpkg-deb.

Run: /usr/bin/python3 -m unittest discover -s tests/tools
"""
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
import corpus_rules as rules  # noqa: E402
import prepare_corpus as pc  # noqa: E402

PAGE = """<html><head><p id="outside">Text before the display area is never read at all.</p></head>
<div id="DisplayArea" itemprop="x">
<h1 id="hd_id1" dir="auto">A heading is dropped even when it is long enough</h1>
<p id="par_id1" class="paragraph" dir="auto">Choose <span class="menuitem">File&nbsp;-&nbsp;Open</span> &amp; press<br>the
   &lt;Enter&gt; key &#8212; twice.</p>
<p class="paragraph">A paragraph without an id is not a paragraph of the corpus.</p>
<p id="par_id2" class="codetoken">Print "this is program code and not text"</p>
<p id="par_id3" class="literal">this is a literal and not text</p>
<P id="par_id4">upper case tags do not occur in these pages</P>
<p id="par_id5" class="listitem">Second body
paragraph.</p>
<div id="DonationFrame"></div><p id="par_id6">Text after the donation frame is never read.</p></html>"""


class Paragraphs(unittest.TestCase):
    def test_extracts_body_paragraphs_only(self):
        self.assertEqual(list(rules.paragraphs(PAGE)), [
            ("par_id1", "Choose File - Open & press the <Enter> key — twice."),
            ("par_id5", "Second body paragraph.")])

    def test_a_page_without_display_area_gives_nothing(self):
        self.assertEqual(list(rules.paragraphs('<p id="par_id1">some text that is long enough</p>')), [])


class Cleaning(unittest.TestCase):
    def test_length_counts_characters_per_script(self):
        self.assertFalse(rules.is_clean("en", "Nineteen chars here", None))
        self.assertTrue(rules.is_clean("en", "Twenty characters ab", None))
        self.assertTrue(rules.is_clean("zh", "选择要打开的文件", "Choose a file."))
        self.assertFalse(rules.is_clean("zh", "选择要打开的文", "Choose a file."))

    def test_letters_must_be_sixty_percent(self):
        self.assertFalse(rules.is_clean("en", "=SUM(A1:B2;3;4;5;6;7;8) abc", None))

    def test_script_share(self):
        self.assertTrue(rules.is_clean("el", "Επιλέξτε το αρχείο ODF που θέλετε", "x"))
        self.assertFalse(rules.is_clean("el", "Choose the file you want, δηλαδή", "x"))

    def test_untranslated_and_mostly_english_are_dropped(self):
        text = "Mentés másként párbeszédablak megnyitása"
        self.assertTrue(rules.is_clean("hu", text, "Opens the dialog to save"))
        self.assertFalse(rules.is_clean("hu", text, text))
        self.assertFalse(rules.is_clean("tr", "the name of the file and the path to it", "other"))

    def test_exact_duplicates_are_kept_once_in_path_order(self):
        same = "This sentence is transcluded."
        pages = {"b.html": [("p1", same)], "a.html": [("p9", same), ("p2", "Another sentence stays here.")]}
        self.assertEqual([row[:2] for row in pc.clean_pages("en", pages, {})], [("a.html", "p9"), ("a.html", "p2")])

    def test_invalid_utf8_is_refused_with_the_file_name(self):
        with self.assertRaisesRegex(pc.ToolError, "bad.html is not UTF-8"):
            pc.read_pages("en", [("bad.html", b"\xff\xfe")])


class Split(unittest.TestCase):
    def test_shares_and_stability(self):
        splits = [pc.split_of(f"folder/file{i}.html") for i in range(5000)]
        for name, share in (("train", 0.8), ("tune", 0.1), ("test", 0.1)):
            self.assertAlmostEqual(splits.count(name) / 5000, share, delta=0.02)
        # A file never changes sides: these values are frozen.
        self.assertEqual([pc.split_of(f"f{i}.html") for i in (4, 5, 6, 7, 13, 17)],
                         ["train", "test", "test", "train", "tune", "test"])

    def test_arrange_keeps_files_whole_and_depends_on_the_seed(self):
        rows = [(f"f{i % 10}.html", f"p{i}", "t") for i in range(50)]
        ordered = pc.arrange(1, sorted(rows))
        paths = [row[0] for row in ordered]
        self.assertEqual(len({p for i, p in enumerate(paths) if i == 0 or paths[i - 1] != p}), 10)
        self.assertEqual(sum(i == 0 or paths[i - 1] != p for i, p in enumerate(paths)), 10)
        self.assertNotEqual(ordered, pc.arrange(2, sorted(rows)))


class Sense(unittest.TestCase):
    def test_first_three_pieces_longer_than_twenty(self):
        document = ("This is the first long sentence! short. This is the third long sentence... "
                    "This is the fourth long sentence.")
        self.assertEqual(rules.sense_pool([document], 5, random.Random(0)),
                         ["This is the first long sentence", "This is the third long sentence"])

    def test_document_length_is_exclusive_on_both_sides(self):
        self.assertEqual(rules.sense_pool(["x" * 20, "y" * 500], 5, random.Random(0)), [])
        self.assertEqual(len(rules.sense_pool(["x" * 21, "y" * 499], 5, random.Random(0))), 2)

    def test_stops_after_twice_the_pool_and_draws_the_pool(self):
        read = []

        def documents():
            for i in range(100):
                read.append(i)
                yield f"sentence number {i:05d} of the file"

        pool = rules.sense_pool(documents(), 2, random.Random(0))  # pool 4, stop at 8
        self.assertEqual(len(read), 8)
        self.assertEqual(len(set(pool)), 4)

    def test_negatives_are_the_positives_of_the_other_languages_in_order(self):
        train = {lang: [("f", f"p{i}", f"{lang} sentence with number {i:04d}") for i in range(60)]
                 for lang in ("en", "el", "hu")}
        sets = pc.sense_sets(train, 5, seed=3)
        positive = {lang: sets[lang]["sentences"]["positive"] for lang in sets}
        self.assertEqual(sets["el"]["sentences"]["negative"], positive["en"] + positive["hu"])
        self.assertEqual({len(v) for v in positive.values()}, {5})
        self.assertEqual((sets["el"]["concept"], sets["el"]["group"], sets["el"]["source"]),
                         ("el", "sense", "language"))
        self.assertEqual(sets, pc.sense_sets(train, 5, seed=3))
        self.assertNotEqual(sets, pc.sense_sets(train, 5, seed=4))


class Continuation(unittest.TestCase):
    @staticmethod
    def rows():
        return [(f"f{i}.html", f"p{i}", " ".join(f"word{(i * 7 + j) % 50:02d}" for j in range(14 + i % 5)))
                for i in range(60)]

    def test_halves_join_to_the_paragraph(self):
        head, tail = rules.halve("en", "aaaa bbbb cccc dddd eeee ffff")
        self.assertEqual(head + " " + tail, "aaaa bbbb cccc dddd eeee ffff")
        self.assertLessEqual(abs(len(head) - len(tail)), 5)
        self.assertIsNone(rules.halve("en", "nospaceatallinthislongword"))
        self.assertEqual(rules.halve("zh", "一二三四"), ("一二", "三四"))

    def test_items_are_fair_and_repeatable(self):
        rows = self.rows()
        texts = {f"{path}|{key}": text for path, key, text in rows}
        items = pc.continuation_items("en", rows, 20, seed=1)
        self.assertEqual(len(items), 20)
        for item in items:
            self.assertEqual(len(set(item["choices"])), 4)
            self.assertEqual(item["context"] + " " + item["choices"][item["gold"]], texts[item["id"]])
            lengths = [len(choice) for choice in item["choices"]]
            self.assertLess(max(lengths), 2 * min(lengths))
        self.assertGreater(len({item["gold"] for item in items}), 2)
        self.assertEqual(items, pc.continuation_items("en", rows, 20, seed=1))
        self.assertNotEqual(items, pc.continuation_items("en", rows, 20, seed=2))

    def test_too_short_and_too_long_paragraphs_are_left_out(self):
        rows = [("a", "p", "too short to cut"), ("b", "p", "word " * 100)]
        self.assertEqual(pc.continuation_items("en", rows, 5, seed=1), [])


class Mix(unittest.TestCase):
    def test_shares(self):
        train = {lang: [("f", str(i), f"{lang}{i}") for i in range(2000)] for lang in ("en", "el", "zh")}
        lines = pc.tokenizer_lines(train, pc.parse_mix("en=1.0,el=0.5"), seed=1)
        self.assertEqual(sum(line.startswith("en") for line in lines), 2000)
        self.assertAlmostEqual(sum(line.startswith("el") for line in lines), 1000, delta=80)
        self.assertFalse(any(line.startswith("zh") for line in lines))

    def test_bad_mix_is_a_config_error(self):
        for text in ("en", "en=x", "en=1.5", "en=-1"):
            with self.assertRaises(pc.ToolError) as caught:
                pc.parse_mix(text)
            self.assertEqual(caught.exception.code, 78)


def make_package(cache, lang, texts):
    """A package with 60 pages; `texts(i)` gives the paragraphs of page i."""
    suffix, folder = pc.SOURCES[lang]
    with tempfile.TemporaryDirectory() as tree:
        text_dir = os.path.join(tree, "usr/share/libreoffice/help", folder, "text/swriter")
        os.makedirs(text_dir)
        os.makedirs(os.path.join(tree, "DEBIAN"))
        with open(os.path.join(tree, "DEBIAN/control"), "w", encoding="utf-8") as stream:
            stream.write(f"Package: libreoffice-help-{suffix}\nVersion: 1:1.0-1\nArchitecture: all\n"
                         "Maintainer: test <test@example.org>\nDescription: test\n")
        for i in range(60):
            body = "".join(f'<p id="par_id{n}" class="paragraph">{t}</p>' for n, t in enumerate(texts(i)))
            with open(os.path.join(text_dir, f"page{i}.html"), "w", encoding="utf-8") as stream:
                stream.write(f'<div id="DisplayArea">{body}<div id="DonationFrame"></div>')
        path = os.path.join(cache, f"libreoffice-help-{suffix}_1%3a1.0-1_all.deb")
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, path], check=True, stdout=subprocess.DEVNULL)
    return path


@unittest.skipUnless(shutil.which("dpkg-deb"), "dpkg-deb is not installed")
class WholeTool(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.cache = os.path.join(self.folder.name, "packages")
        os.makedirs(self.cache)
        make_package(self.cache, "en", lambda i: [f"The command number {i} opens a dialog {n} for every table."
                                                  for n in range(4)])
        make_package(self.cache, "el", lambda i: [f"Η εντολή αριθμός {i} ανοίγει διάλογο {n} για κάθε πίνακα."
                                                  for n in range(4)] + ["The command left untranslated."])
        self.out = os.path.join(self.folder.name, "corpus")

    def call(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = pc.main(["--output", self.out, "--languages", "en,el", "--item-languages", "en",
                            "--sentences", "6", "--items", "3", *arguments])
        return code, out.getvalue(), err.getvalue()

    def digest(self):
        total = hashlib.sha256()
        for folder, _, names in sorted(os.walk(self.out)):
            for name in sorted(names):
                with open(os.path.join(folder, name), "rb") as stream:
                    total.update(name.encode() + stream.read())
        return total.hexdigest()

    def read(self, *parts):
        with open(os.path.join(self.out, *parts), encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]

    def test_writes_the_whole_corpus(self):
        code, out, err = self.call()
        self.assertEqual((code, err), (0, ""))
        pages = {}
        for split in pc.SPLITS:
            for lang in ("en", "el"):
                rows = self.read("text", split, lang + ".jsonl")
                self.assertTrue(rows)
                pages[lang, split] = {row["id"].split("|")[0] for row in rows}
        for split in pc.SPLITS:  # the same files on the same side in both languages
            self.assertEqual(pages["en", split], pages["el", split])
        self.assertFalse(pages["en", "train"] & (pages["en", "tune"] | pages["en", "test"]))
        self.assertFalse(any("untranslated" in row["text"] for row in self.read("text", "train", "el.jsonl")))
        with open(os.path.join(self.out, "corpus.json"), encoding="utf-8") as stream:
            corpus = json.load(stream)
        self.assertEqual(corpus["counts"]["sense_positive"], {"en": 6, "el": 6})
        self.assertEqual(corpus["packages"]["libreoffice-help-el"]["version"], "1:1.0-1")
        self.assertIn("MPL-2.0", corpus["license"])
        self.assertEqual(corpus["counts"]["files"], {"en": 60, "el": 60})

    def test_second_run_reuses_and_a_damaged_file_is_made_again(self):
        self.call()
        first = self.digest()
        self.assertIn("reusing", self.call()[1])
        with open(os.path.join(self.out, "tokenizer.txt"), "a", encoding="utf-8") as stream:
            stream.write("damage\n")
        self.assertNotIn("reusing", self.call()[1])
        self.assertEqual(self.digest(), first)

    def test_leftovers_of_a_killed_run_are_removed(self):
        os.makedirs(self.out + ".tmp-12345/text")
        self.assertEqual(self.call()[0], 0)
        self.assertEqual(sorted(os.listdir(self.folder.name)), ["corpus", "packages"])

    def test_other_options_make_other_files(self):
        self.call()
        first = self.digest()
        self.call("--seed", "2")
        self.assertNotEqual(self.digest(), first)

    def test_damaged_package(self):
        path = pc.cached_deb(self.cache, "libreoffice-help-el")
        with open(path, "r+b") as stream:
            stream.truncate(os.path.getsize(path) // 2)
        code, _, err = self.call()
        self.assertEqual(code, pc.EXIT_IO)
        self.assertRegex(err, r"^prepare_corpus: .*libreoffice-help-el.*delete it and run again\n$")
        self.assertFalse(os.path.exists(self.out))

    def test_unknown_language_is_a_config_error(self):
        code, _, err = self.call("--languages", "en,xx")
        self.assertEqual(code, 78)
        self.assertIn("unknown language 'xx'", err)

    def test_unwritable_output_is_one_line(self):
        self.out = "/proc/nowhere/corpus"
        code, _, err = self.call("--cache", self.cache)
        self.assertEqual(code, pc.EXIT_IO)
        self.assertEqual(err.count("\n"), 1)


if __name__ == "__main__":
    unittest.main()
