# Finds the two lines of a text that are most alike: by the longest run of words, in order, that
# they share. Reads the text on standard input. The work grows with the square of the lines, so
# files take very different times: a fair load to try a batch with.

{
    count = split($0, found, /[^A-Za-z0-9_]+/)
    kept = 0
    for (i = 1; i <= count; i++) if (found[i] != "") word[lines + 1, ++kept] = found[i]
    if (kept < 4) next
    lines++
    text[lines] = $0
    number[lines] = NR
    words[lines] = kept
}

END {
    best = -1
    for (a = 1; a <= lines; a++) {
        for (b = a + 1; b <= lines; b++) {
            alike = 2 * shared(a, b) / (words[a] + words[b])
            if (alike > best && text[a] != text[b]) { best = alike; first = a; second = b }
        }
    }
    if (best < 0) { print "no two lines to compare"; exit }
    printf "%3d%% alike: line %d `%s` and line %d `%s`\n", 100 * best, \
        number[first], trim(text[first]), number[second], trim(text[second])
}

# The length of the longest common subsequence of the words of two lines.
function shared(a, b,    i, j, row, above, here) {
    for (j = 0; j <= words[b]; j++) row[j] = 0
    for (i = 1; i <= words[a]; i++) {
        above = 0
        for (j = 1; j <= words[b]; j++) {
            here = row[j]
            if (word[a, i] == word[b, j]) row[j] = above + 1
            else if (row[j - 1] > row[j]) row[j] = row[j - 1]
            above = here
        }
    }
    return row[words[b]]
}

function trim(line) { gsub(/^[ \t]+|[ \t]+$/, "", line); return substr(line, 1, 40) }
