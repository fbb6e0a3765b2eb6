package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// beat is what a node says of itself, every second and when something changes.
type beat struct {
	ID      string `json:"id"`
	Process string `json:"process"` // random: the same node, started anew, is another process
	Name    string `json:"name,omitempty"`
	Version string `json:"version,omitempty"`
	Key     string `json:"key,omitempty"`
	Since   int64  `json:"since,omitempty"` // Unix milliseconds by the node's own clock: to be shown, never compared

	Willing  bool `json:"willing,omitempty"`
	Draining bool `json:"draining,omitempty"`

	// Joining: it asks who is there, and is no member yet. Everybody answers at once.
	Joining bool `json:"joining,omitempty"`
	// Asks is a member's question who is there.
	Asks bool `json:"asks,omitempty"`
	// Answers is the process whose question this answers: proof that the sender lives now.
	Answers string `json:"answers,omitempty"`
	// Bye is the last word of a process.
	Bye bool `json:"bye,omitempty"`
}

// maxBeat bounds a beat, in bytes, and maxField one text in it.
const (
	maxBeat  = 4096
	maxField = 300
)

func (b beat) encode() []byte {
	data, err := json.Marshal(b)
	if err != nil {
		panic(err) // strings, numbers and booleans can be encoded
	}
	return data
}

// parseBeat reads what another node said. Fields that a later version adds are ignored.
func parseBeat(data []byte) (beat, error) {
	var b beat
	if len(data) > maxBeat {
		return b, fmt.Errorf("read a heartbeat: %d bytes", len(data))
	}
	if err := json.Unmarshal(data, &b); err != nil {
		return b, fmt.Errorf("read a heartbeat: %w", err)
	}
	if b.ID == "" || b.Process == "" {
		return b, errors.New("read a heartbeat: id or process is missing")
	}
	for _, s := range []string{b.ID, b.Process, b.Name, b.Version, b.Key, b.Answers} {
		if !printable(s) {
			return b, errors.New("read a heartbeat: a text that is too long or cannot be printed")
		}
	}
	return b, nil
}

func printable(s string) bool {
	if len(s) > maxField || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// Member is a node of the cluster, as this one sees it.
type Member struct {
	ID, Name, Version string
	// Process is another after each start.
	Process string
	// Self marks the node that was asked.
	Self bool
	// Willing nodes own keys, unless they are draining.
	Willing, Draining bool
	// Since is when its process joined, by its own clock; the zero time when it did not say.
	Since time.Time
	// Ignored is OtherKey or SameID for a process that is heard and is no member, else empty.
	Ignored string
	// Silent is how long it has said nothing.
	Silent time.Duration
}

func (b beat) member() Member {
	m := Member{ID: b.ID, Name: b.Name, Version: b.Version, Process: b.Process, Willing: b.Willing, Draining: b.Draining}
	if b.Since > 0 {
		m.Since = time.UnixMilli(b.Since)
	}
	return m
}

// fits reports whether nodes with these key checks open what each other seals.
func fits(a, b string) bool {
	opens := func(with, sealed string) bool {
		by, _, _ := strings.Cut(sealed, ",")
		return slices.Contains(strings.Split(with, ","), by)
	}
	return opens(a, b) && opens(b, a)
}
