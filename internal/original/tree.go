package original

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// found is one key of one property file.
type found struct {
	property
	file   string // relative to the tree
	judged bool
}

// tree is a directory of the original: its property files as one, as the original reads them, and its other files by
// name.
type tree struct {
	dir   string
	files []string // relative, sorted: those that are read
	every []string // relative: all
	other map[string]int
	props map[string]*found
	all   []*found
	// broken are files that could not be read.
	broken []Finding
}

// readTree looks for files in dir and below it. Links are not followed to directories.
func readTree(dir string) (*tree, error) {
	t := &tree{dir: dir, props: map[string]*found{}, other: map[string]int{}}
	n := 0
	root, err := filepath.EvalSymlinks(dir) // the walk follows none
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %s: %s", dir, reason(err))
	}
	if info, err := os.Stat(root); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("%s is no directory: name the one with the configuration, a copy of /opt/open-xchange/etc", dir)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, path)
		if err != nil {
			if rel == "." {
				return err
			}
			t.broken = append(t.broken, Finding{rel, "it cannot be read: " + reason(err), true})
			return fs.SkipDir
		}
		if n++; n > maxFiles {
			return fmt.Errorf("%s holds more than %d files: name the directory with the configuration, such as /opt/open-xchange/etc", dir, maxFiles)
		}
		switch {
		case d.IsDir() && strings.Count(rel, string(filepath.Separator)) >= maxDepth:
			return fs.SkipDir
		case !d.IsDir():
			rel = filepath.ToSlash(rel)
			if t.every = append(t.every, rel); wanted(rel) {
				t.files = append(t.files, rel)
			} else {
				t.other[cmp.Or(filepath.Ext(rel), filepath.Base(rel))]++
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	slices.Sort(t.files)
	for _, file := range t.files {
		if !strings.HasSuffix(file, ".properties") {
			continue
		}
		data, err := t.read(file)
		if err != nil {
			t.broken = append(t.broken, Finding{file, "it cannot be read: " + reason(err), true})
			continue
		}
		for _, p := range parseProperties(data) {
			if len(t.all) == maxKeys {
				return nil, fmt.Errorf("read the configuration: more than %d keys", maxKeys)
			}
			f := &found{property: p, file: file}
			t.all = append(t.all, f)
			// The later wins, but a spelling that the system before read beats one that it did not.
			name := canonical(p.key)
			if other := t.props[name]; other == nil || spelling(p.key) >= spelling(other.key) {
				t.props[name] = f
			}
		}
	}
	return t, nil
}

// wanted says which files are looked at.
func wanted(path string) bool {
	switch filepath.Ext(path) {
	case ".properties", ".yml", ".yaml", ".p12", ".p8", ".conf":
		return true
	}
	return false
}

func reason(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return err.Error()
}

// read reads a file of the tree.
func (t *tree) read(file string) ([]byte, error) {
	return readFile(filepath.Join(t.dir, filepath.FromSlash(file)))
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // below the directory that the operator names
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("no regular file")
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	return data, err
}

// named lists the files of the tree with a base name.
func (t *tree) named(base string) (all []string) {
	for _, f := range t.files {
		if filepath.Base(f) == base {
			all = append(all, f)
		}
	}
	return all
}

// locate finds the file that a path in the configuration means: in the tree, where a copy of the directory has it, else
// where the path says.
func (t *tree) locate(path string) ([]byte, string, error) {
	clean := filepath.ToSlash(filepath.Clean(path))
	best, fits := "", false
	for _, f := range t.every {
		if filepath.Base(f) != filepath.Base(path) {
			continue
		}
		if whole := strings.HasSuffix("/"+clean, "/"+f); best == "" || whole && (!fits || len(f) > len(best)) {
			best, fits = f, whole
		}
	}
	if best != "" {
		if kind := cmp.Or(filepath.Ext(best), filepath.Base(best)); t.other[kind] > 1 {
			t.other[kind]--
		} else {
			delete(t.other, kind)
		}
		data, err := t.read(best)
		return data, best, err
	}
	if !filepath.IsAbs(path) {
		return nil, "", fmt.Errorf("%s is not in %s", path, t.dir)
	}
	data, err := readFile(path)
	if err != nil {
		return nil, "", fmt.Errorf("%s is neither in %s nor where it says: %s", filepath.Base(path), t.dir, reason(err))
	}
	return data, path, nil
}

// canonical is a key without the two traps of the original's names: com.openxchange, and the older mobilenotifier.
func canonical(key string) string {
	if rest, ok := strings.CutPrefix(key, "com.openxchange."); ok {
		key = "com.openexchange." + rest
	}
	return strings.Replace(key, "com.openexchange.mobilenotifier.", "com.openexchange.mobilepush.", 1)
}

// spelling ranks how a key is written: the system before read com.openxchange.mobilepush, before that
// com.openxchange.mobilenotifier, and everything else with com.openexchange.
func spelling(key string) int {
	old := strings.HasPrefix(key, "com.openxchange.")
	switch canon := canonical(key); {
	case !strings.HasPrefix(canon, mobilePush) && !old, strings.HasPrefix(key, "com.openxchange.mobilepush."):
		return 2
	case strings.HasPrefix(key, "com.openxchange.mobilenotifier."):
		return 1
	}
	return 0
}

const mobilePush = "com.openexchange.mobilepush."

var (
	secretKey  = regexp.MustCompile(`(?i)pass(word|wd|crypt|phrase)?$|secret|passwd|password|passcrypt|passphrase|key$|apikey|token|credential|salt|private|\.(pw|pwd|pin)$`)
	secretPart = regexp.MustCompile(`(?i)((?:password|passwd|pwd|secret|key)=)[^&\s,;]+`)
	userInfo   = regexp.MustCompile(`//[^/@\s]+@`)
)

// hidden is the value of a key that is not known: it may be anything, a password too.
func hidden(value string) string {
	switch value = strings.TrimSpace(value); value {
	case "", "true", "false":
		return value
	}
	return "[not shown]"
}

// shown is a value as the report may show it.
func shown(key, value string) string {
	value = strings.TrimSpace(value)
	if value == "" {
		return ""
	}
	if secretKey.MatchString(key) && !strings.HasSuffix(key, "Source") && value != "true" && value != "false" {
		return "[redacted]"
	}
	value = secretPart.ReplaceAllString(userInfo.ReplaceAllString(value, "//[redacted]@"), "$1[redacted]")
	if r := []rune(value); len(r) > 80 {
		value = string(r[:80]) + "…"
	}
	return strings.Map(printable, value)
}

func printable(c rune) rune {
	if c < ' ' || c >= 0x7f && c < 0xa0 || c >= 0x200b && c <= 0x200f || c >= 0x202a && c <= 0x202e || c == 0x2066 || c == 0xfeff {
		return '\ufffd'
	}
	return c
}
