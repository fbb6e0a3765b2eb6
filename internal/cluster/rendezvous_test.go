package cluster

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func ids(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("node-%d", i))
	}
	return all
}

// users are keys as listen uses them.
func users(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("%d@%d", i, i%7))
	}
	return all
}

// TestOwnerIsProtocol: nodes of different versions must agree, so this table may never change.
func TestOwnerIsProtocol(t *testing.T) {
	got := ""
	for _, key := range []string{"", "3@1", "4@1", "1000000@12", "a", "ä"} {
		got += owner(places([]string{"A", "B", "C", "D"}), key) + " "
	}
	if want := "D C A C C A "; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestOwnerSpreads(t *testing.T) {
	const keys = 100_000
	for n := 2; n <= 10; n++ {
		all, counts := places(ids(n)), map[string]int{}
		for _, u := range users(keys) {
			counts[owner(all, u)]++
		}
		mean := float64(keys) / float64(n)
		for id, c := range counts {
			if f := float64(c) / mean; f < 0.97 || f > 1.03 {
				t.Errorf("%d nodes: %s has %.3f of the mean", n, id, f)
			}
		}
	}
}

// TestOwnerMovesOnlyTheShare: a node that goes hands on its own keys, evenly, and no other key moves; a node
// that comes takes only what it owns from then on.
func TestOwnerMovesOnlyTheShare(t *testing.T) {
	const keys = 100_000
	for n := 2; n <= 8; n++ {
		with, without := places(ids(n)), places(ids(n)[:n-1])
		gone, heirs := fmt.Sprintf("node-%d", n-1), map[string]int{}
		for _, u := range users(keys) {
			before, after := owner(with, u), owner(without, u)
			if before == gone {
				heirs[after]++
			} else if before != after {
				t.Fatalf("%d nodes: %s moved from %s to %s", n, u, before, after)
			}
		}
		share := float64(keys) / float64(n) / float64(n-1)
		for id, c := range heirs {
			if f := float64(c) / share; f < 0.9 || f > 1.1 {
				t.Errorf("%d nodes: %s inherits %.3f of a share", n, id, f)
			}
		}
	}
}

func TestOwnerProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfNDistinct(rapid.String(), 1, 12, rapid.ID[string]).Draw(t, "nodes")
		key := rapid.String().Draw(t, "key")
		if slices.Contains(all, "") { // is no id
			return
		}
		got := owner(places(all), key)
		if !slices.Contains(all, got) {
			t.Fatalf("owner %q is none of them", got)
		}
		shuffled := rapid.Permutation(all).Draw(t, "shuffled")
		if other := owner(places(shuffled), key); other != got {
			t.Fatalf("in another order %q owns it, not %q", other, got)
		}
		for _, out := range all {
			rest := slices.DeleteFunc(slices.Clone(all), func(id string) bool { return id == out })
			if next := owner(places(rest), key); out != got && next != got {
				t.Fatalf("%q went, and the key moved from %q to %q", out, got, next)
			}
		}
	})
	if got := owner(nil, "3@1"); got != "" {
		t.Errorf("nobody owns it, but %q does", got)
	}
}

func TestOwnerAllocatesNothing(t *testing.T) {
	all := places(ids(8))
	if n := testing.AllocsPerRun(100, func() { owner(all, "123456@12") }); n != 0 {
		t.Errorf("%.0f allocations", n)
	}
}

func BenchmarkOwner(b *testing.B) {
	all := places(ids(8))
	for b.Loop() {
		owner(all, "123456@12")
	}
}
