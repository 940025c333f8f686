"""Count the words that come in on standard input."""

import re
import sys
from collections import Counter

words = Counter(re.findall(r"\w+", sys.stdin.read().lower()))
for word, count in words.most_common(5):
    print(f"{count:4d} {word}")
