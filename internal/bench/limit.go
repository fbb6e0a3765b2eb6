package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// limit is what a figure must reach.
type limit struct {
	text  string
	lines []string // all must have been measured
	// judge is given the values of lines.
	judge func(v []float64) (holds bool, figure string)
}

// limits are those that Posthorn is held to.
var limits = []limit{
	{"`notify.cpu_us` at most 1.5 times the committing handler's", []string{"notify.cpu_us", "notify.baseline_commit_cpu_us"}, atMost(1.5, "us")},
	{"`apns.cpu_us` at most a quarter of `http2.Transport`'s", []string{"apns.cpu_us", "apns.baseline_http2_cpu_us"}, atMost(.25, "us")},
	{"`apns.rate_50ms` at least 75 % of what the stream limit allows", []string{"apns.rate_50ms", "apns.stream_limit_rate"}, func(v []float64) (bool, string) {
		return v[0] >= .75*v[1], fmt.Sprintf("%.0f %% of %.0f/s", 100*v[0]/v[1], v[1])
	}},
	{"two connections at least 1.5 times one, or the CPU is the limit", []string{"apns.rate_50ms_two", "apns.rate_50ms", "apns.rate_50ms_two_busy_pct"}, func(v []float64) (bool, string) {
		return v[0] >= 1.5*v[1] || v[2] >= 95, fmt.Sprintf("%.2f times, the machine %.0f %% busy", v[0]/v[1], v[2])
	}},
	{"`webpush.cpu_us` at most 1.25 times the key agreement", []string{"webpush.cpu_us", "webpush.baseline_ecdh_us"}, atMost(1.25, "us")},
	{"at most one send for each device after the outage, the newest state each", []string{"outage.sends", "outage.devices", "outage.lost"}, func(v []float64) (bool, string) {
		return v[0] <= v[1] && v[2] == 0, fmt.Sprintf("%.0f sends for %.0f devices, %.0f without the newest", v[0], v[1], v[2])
	}},
	{"`outage.slots_max` at most one for each device", []string{"outage.slots_max", "outage.devices"}, func(v []float64) (bool, string) {
		return v[0] <= v[1], fmt.Sprintf("%.0f slots", v[0])
	}},
	{"`memory.rss_mb` at most 120 MB", []string{"memory.rss_mb"}, func(v []float64) (bool, string) {
		return v[0] <= 120, fmt.Sprintf("%.0f MB", v[0])
	}},
	{"`crash.lost` is 0", []string{"crash.lost", "crash.rounds"}, func(v []float64) (bool, string) {
		return v[0] == 0, fmt.Sprintf("%.0f in %.0f rounds", v[0], v[1])
	}},
	{"`crash.duplicates` at most the default limit of notifications in flight", []string{"crash.duplicates", "crash.streams"}, func(v []float64) (bool, string) {
		return v[0] <= v[1], fmt.Sprintf("%.0f in the worst round, limit %.0f", v[0], v[1])
	}},
	{"`isolation.p99_change_pct` at most 10 %", []string{"isolation.p99_change_pct"}, func(v []float64) (bool, string) {
		return v[0] <= 10, fmt.Sprintf("%.0f %%", v[0])
	}},
	{"`latency.accept_to_write_p99_ms` at most 15 ms, or 3 times the disk's fsync p99 if that is more", []string{"latency.accept_to_write_p99_ms", "latency.baseline_fsync_p99_ms"}, func(v []float64) (bool, string) {
		return v[0] <= math.Max(15, 3*v[1]), fmt.Sprintf("%.1f ms, fsync %.1f ms", v[0], v[1])
	}},
	{"15,000 listeners: `idle.tls_rss_kib` at most 22 KiB", []string{"idle.tls_rss_kib", "idle.connections"}, func(v []float64) (bool, string) {
		return v[0] <= 22 && v[1] >= 15_000, fmt.Sprintf("%.1f KiB, %.0f connections", v[0], v[1])
	}},
	{"15,000 listeners: `idle.plain_rss_kib` at most 8 KiB", []string{"idle.plain_rss_kib", "idle.connections"}, func(v []float64) (bool, string) {
		return v[0] <= 8 && v[1] >= 15_000, fmt.Sprintf("%.1f KiB, %.0f connections", v[0], v[1])
	}},
	{"`reconnect.cpu_ms` at most 1.3 times a bare connection's", []string{"reconnect.cpu_ms", "reconnect.baseline_cpu_ms"}, atMost(1.3, "ms")},
	{"`reconnect.refused` is 0", []string{"reconnect.refused"}, below(0, "")},
	{"one of three nodes, and one of two, is killed: everybody has an owner within 10 s", []string{"failover.seconds_3", "failover.seconds_2"}, below(10, " s")},
	{"nobody is left without an owner or a registration, and the cluster's memory keeps every password", []string{"failover.unowned", "failover.unregistered", "failover.memory_lost"}, below(0, "")},
	{"`spread.max_over_mean` at most 1.1", []string{"spread.max_over_mean"}, below(1.1, "")},
	{"`join.moved_pct` at most 30 %", []string{"join.moved_pct"}, below(30, " %")},
	{"no push is lost or doubled while a node joins", []string{"join.lost", "join.doubled"}, below(0, "")},
	{"after a start every device is at its newest state within 30 s", []string{"reconcile.seconds", "reconcile.master_seconds"}, below(30, " s")},
	{"by one push each", []string{"reconcile.missing", "reconcile.doubled"}, below(0, "")},
}

// atMost wants the first value to be at most factor times the second.
func atMost(factor float64, unit string) func([]float64) (bool, string) {
	return func(v []float64) (bool, string) {
		return v[0] <= factor*v[1], fmt.Sprintf("%.2f times: %.3g and %.3g %s", v[0]/v[1], v[0], v[1], unit)
	}
}

// below wants every value to be at most bound.
func below(bound float64, unit string) func([]float64) (bool, string) {
	return func(v []float64) (bool, string) {
		var shown []string
		for _, one := range v {
			shown = append(shown, number(one))
		}
		return slices.Max(v) <= bound, strings.Join(shown, " and ") + unit
	}
}

// verdict is a limit's word on measured lines.
func (l limit) verdict(lines map[string]Line) (word, figure string) {
	var v []float64
	suffix := ""
	for _, name := range l.lines {
		line, ok := lines[name]
		if !ok {
			return "not measured", ""
		}
		v = append(v, line.Value)
		if line.quick {
			suffix = " (quick run)"
		}
	}
	holds, figure := l.judge(v)
	if !holds {
		return "**missed**", figure + suffix
	}
	return "holds", figure + suffix
}
