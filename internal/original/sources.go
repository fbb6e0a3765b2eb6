package original

import (
	"cmp"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/config"
)

// sources finds out how the system before heard of new mail.
func (r *Reader) sources() {
	type source struct{ name, prefix, enabled, permanent string }
	var on []string
	for _, s := range []source{
		{"dovecot", "com.openexchange.push.dovecot.", "com.openexchange.push.dovecot.enabled", ""},
		{"idle", "com.openexchange.push.imapidle.", "com.openexchange.push.imapidle.enabled", "com.openexchange.push.imapidle.supportsPermanentListeners"},
		{"mailnotify", "com.openexchange.push.mail.notify.", "com.openexchange.push.mail.notify.enabled", ""},
	} {
		there := false
		for key := range r.tree.props {
			there = there || strings.HasPrefix(key, s.prefix)
		}
		if !there {
			continue
		}
		used := r.flag(s.enabled, true)
		if s.permanent != "" {
			used = used && r.flag(s.permanent, false)
			r.judge(s.permanent, Changed, "mail hosts: source", "a connection for each user is what IDLE needs; with it off, it is not used")
		}
		r.judge(s.enabled, Changed, "mail hosts: source", "what tells of new mail is said for each mail host")
		if used {
			on = append(on, s.name)
		}
	}
	r.host.Source = "auto"
	if len(on) == 1 {
		r.host.Source = on[0]
	}
	const prefer = "com.openexchange.push.dovecot.preferDoveadmForMetadata"
	r.judge(prefer, Changed, "mail hosts: doveadm_url", "a mail host that has a doveadm API is registered by it")
	r.doveadm()
}

// doveadm takes over the connector to Dovecot's administration API, which needs no user's password.
func (r *Reader) doveadm() {
	const enabled, secret, endpoints = "com.openexchange.dovecot.doveadm.enabled", "com.openexchange.dovecot.doveadm.apiSecret", "com.openexchange.dovecot.doveadm.endpoints"
	key, _ := r.get(secret)
	first, more, _ := strings.Cut(r.text(endpoints), ",")
	u, err := url.Parse(strings.TrimSpace(first))
	switch {
	case !r.flag(enabled, false):
		for _, k := range []string{enabled, secret, endpoints} {
			r.judge(k, Dropped, "", "it was not enabled")
		}
		return
	case key == "" || err != nil || u.Host == "":
		for _, k := range []string{enabled, secret, endpoints} {
			r.ask(k, Dropped, "", "an endpoint and its secret are needed: give each mail host its own with \"posthorn mailhost set\"")
		}
		return
	}
	r.host.DoveadmURL, r.host.DoveadmKey = u.Scheme+"://"+u.Host, config.NewSecret(key)
	why := ""
	if strings.TrimSpace(more) != "" {
		why = "only the first is taken: a mail host has one"
	}
	r.judge(enabled, Taken, "mail hosts: doveadm_url", "")
	r.judge(secret, Taken, "mail hosts: doveadm_key", "")
	r.judge(endpoints, Changed, "mail hosts: doveadm_url", cmp.Or(why, "without the path, which is always the same"))
}

// mailNotify takes over the receiver of Cyrus's datagrams.
func (r *Reader) mailNotify() {
	const p = "com.openexchange.push.mail.notify."
	used := r.host.Source == "mailnotify"
	if !used {
		for key := range r.tree.props {
			if strings.HasPrefix(key, p) {
				used = r.flag(p+"enabled", r.host.Source == "auto" && !r.installed("com.openexchange.push.dovecot."))
			}
		}
	}
	if !used {
		for key := range r.tree.props {
			if strings.HasPrefix(key, p) {
				r.judge(key, Dropped, "", "mail servers do not report by UDP here: set mailnotify.enabled if they do")
			}
		}
		return
	}
	host, _ := r.get(p + "udp_listen_host")
	port, _ := r.get(p + "udp_listen_port")
	port = cmp.Or(port, "23420")
	multicast := r.flag(p+"udp_listen_multicast", false)
	local := host == "" || host == "localhost" || strings.HasPrefix(host, "127.") || host == "::1"
	at := cmp.Or(r.from(p+"udp_listen_port"), r.from(p+"udp_listen_host"), "the default of the system before")
	r.out.set("mailnotify.enabled", local && !multicast, cmp.Or(r.from(p+"enabled"), "the system before had the package"))
	if multicast {
		r.out.set("mailnotify.multicast_group", host, at)
		r.out.set("mailnotify.listen", "127.0.0.1:"+port, at)
	} else {
		r.out.set("mailnotify.listen", net.JoinHostPort(listenHost(host), port), at)
	}
	if !local || multicast {
		r.finding(true, "mailnotify", "it is written, but switched off: name the networks of the mail servers in mailnotify.allow_from, then set mailnotify.enabled to true")
	}
	r.judge(p+"udp_listen_host", Taken, "mailnotify.listen", "")
	r.judge(p+"udp_listen_port", Taken, "mailnotify.listen", "")
	r.judge(p+"udp_listen_multicast", Changed, "mailnotify.multicast_group", "a group is named, or there is none")
	if v, _ := r.get(p + "imap_login_delimiter"); v != "" {
		r.out.set("mailnotify.login_delimiter", v, r.from(p+"imap_login_delimiter"))
	}
	r.judge(p+"imap_login_delimiter", Taken, "mailnotify.login_delimiter", "")
	if d, ok := r.millis(p+"delay_millis", 5*time.Minute); ok {
		r.out.set("mailnotify.delay", duration(d), r.from(p+"delay_millis"))
		r.judge(p+"delay_millis", Changed, "mailnotify.delay", "the first report is followed at once; this is the least time between two looks")
	}
	const bare = p + "use_full_email_address"
	if r.flag(bare, false) {
		r.judge(bare, Changed, "mailnotify.domains", "no domain is added to a name")
	} else {
		r.judge(bare, Changed, "mailnotify.domains", "names without a domain: list yours in mailnotify.domains, if logins have one")
	}
	r.judge(p+"use_ox_login", Dropped, "", "a report names the IMAP login")
}

// installed reports whether a key with a prefix is there.
func (r *Reader) installed(prefix string) bool {
	for key := range r.tree.props {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}
