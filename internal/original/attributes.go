package original

import (
	"slices"
	"strconv"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// taxonomy is the attribute whose value is the tags of a context, and asProperty begins those that are properties.
const (
	taxonomy   = "taxonomy/types"
	asProperty = "config/"
)

func (r *rows) contextAttribute(row record) string {
	c := row.int("cid")
	if !inRange(c) {
		return "it names no context: cid must be from 1 to 4294967295"
	}
	if r.closed[uint32(c)] { //nolint:gosec // in range
		return closedContext
	}
	name, value := row.name("name"), row.name("value")
	if name == taxonomy {
		tags, why := cleanTags(value)
		if why != "" {
			return why
		}
		r.tags[uint32(c)] = tags //nolint:gosec // in range
		return ""
	}
	return r.value("context", strconv.FormatInt(c, 10), name, value)
}

func (r *rows) userAttribute(row record) string {
	u, ok := row.user("id")
	if !ok {
		return noUser
	}
	return r.value("user", u.String(), row.name("name"), row.name("value"))
}

func (r *rows) value(scope, subject, name, value string) string {
	key, ok := strings.CutPrefix(name, asProperty)
	if !ok {
		return "it is no property"
	}
	p, text, why := property1(key, value)
	if why != "" {
		return why
	}
	r.values = append(r.values, Value{Scope: scope, Subject: subject, Name: p, Value: text})
	return ""
}

// cleanTags reads the tags of a context, which are parted by commas.
func cleanTags(value string) (tags []string, why string) {
	for part := range strings.SplitSeq(value, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		tag, err := cascade.CheckTag(part)
		if err != nil {
			return nil, err.Error()
		}
		if !slices.Contains(tags, tag) {
			tags = append(tags, tag)
		}
	}
	return tags, ""
}
