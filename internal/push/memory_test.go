package push

import (
	"fmt"
	"runtime"
	"testing"
)

// TestEntryMemory: a dirty slot costs the timetable little, for there may be a hundred thousand.
func TestEntryMemory(t *testing.T) {
	const slots, most = 100_000, 320 // bytes each, with the map, the heap and the slot's id
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	s := newScheduler(1000, anyCredential)
	before := heap()
	for i := range slots {
		s.add([]Due{{id: slotID{fmt.Sprintf("%024x", i), collapseKeyMail}, lane: "apns/0/com.example.mail", context: int64(i % 10), client: "app"}})
	}
	after := heap()
	if each := (after - before) / slots; each > most {
		t.Errorf("%d bytes for a slot, at most %d", each, most)
	} else {
		t.Logf("%d bytes for a slot", each)
	}
	runtime.KeepAlive(s)
}
