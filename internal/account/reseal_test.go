package account

import (
	"fmt"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/seal"
)

// TestResealMemory: what the cluster memory holds is sealed anew too, in batches, and a password that changes
// meanwhile stays the changed one.
func TestResealMemory(t *testing.T) {
	t.Parallel()
	ring := func(digit string) *seal.Keyring {
		t.Helper()
		k, err := seal.ParseKeyFile(strings.Repeat(digit, 2*seal.KeySize))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	old, fresh := ring("1"), ring("2")
	s := &Service{Config: Config{Store: StoreMemory, Memory: newMemory(t, 2000), Keys: seal.Join(fresh, old)}}
	const n = 1000
	owner := func(i int) string { return fmt.Sprintf("credential/%d@1", i) }
	for i := range n {
		if err := s.Memory.Put(owner(i), old.Seal(owner(i), []byte(fmt.Sprint(i)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Memory.Put("credential/0@2", "not sealed"); err != nil {
		t.Fatal(err)
	}
	var all seal.Moved
	batches := 0
	for after := ""; ; batches++ {
		next, m, err := s.ResealMemory(t.Context(), after)
		if err != nil {
			t.Fatal(err)
		}
		if all.Add(m); next == "" {
			break
		}
		after = next
	}
	if all.Seen != n+1 || all.Changed != n || fmt.Sprint(all.Lost) != "[credential/0@2]" || batches < 3 || batches > n/memoryBatch+1 {
		t.Errorf("%+v in %d batches", all, batches)
	}
	for i := range n {
		sealed, _ := s.Memory.Get(owner(i))
		if got, err := fresh.Open(owner(i), sealed); err != nil || string(got) != fmt.Sprint(i) {
			t.Fatalf("%d: %q, %v", i, got, err)
		}
	}
	s.Store = StoreDatabase
	if next, m, err := s.ResealMemory(t.Context(), fmt.Sprint(bus.MemoryParts-1)); next != "" || m.Seen != 0 || err != nil {
		t.Errorf("without one: %q, %+v, %v", next, m, err)
	}
}
