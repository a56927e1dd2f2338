"""A hundred values that break careless quoting, for names, directories, variables and scripts."""
import string
from typing import List

WORDS = ["it's", 'say "hi"', "a b", " lead", "trail ", "$HOME", "${x}", "$(id)", "`id`", "*", "?",
         "[a-z]", "~", "~root", "-n", "--help", "-", "--", "#", "# no", "a#b", "\\", "\\n", "a\\b",
         "'", '"', "''", '""', "'\\''", ";", "a;b", "|", "&", "&&", "<x", ">x", "(", ")", "{", "}",
         "{a,b}", "!", "!!", "^", "%", "%j", "@", "@name@", "@base@", "=", "a=b", "==", ",", "a,b",
         ":", "é", "ü ß", "日本語", "\U0001f600", "\u2028", "\u00a0", "e\u0301", "0", "-1", "1e5",
         "null", "true", "/", "//", "..", "../..", ".", "$", "$$", "$1", "$*", "$@", "$#",
         "$?", "$'x'", "\"'`$\\", "a" * 300, "if", "fn x {}", "exit 3", "rm -rf /", "\\'", "\\\"",
         "x'y'z", "<<E", "2>&1", ">[2=1]", "a\tb".replace("\t", " "), string.punctuation]
LINES = ["two\nlines", "end\n", "\n", "\ttab", "a\r\nb", "\x01one", "esc\x1b[31m",
         "#!x\n#SBATCH --x", "x\nE\ny"]


def texts() -> List[str]:
    """Those that are one line, then those that are not."""
    return WORDS + LINES
