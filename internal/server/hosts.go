package server

import (
	"errors"
	"io/fs"
	"net/url"

	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/tenant/hostrule"
)

// readHosts reads the host rules of the file that the configuration names; nil when there are none.
func readHosts(cfg *config.Config) (*hostrule.Rules, config.Problems) {
	path, named := cfg.HostsPath()
	if path == "" {
		return nil, nil
	}
	data, err := readAtMost(path, hostrule.MaxFile)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return nil, nil
	} else if err != nil {
		return nil, config.Problems{cfg.Problem("hosts_file", "read the host rules: %v", err)}
	}
	rules, err := hostrule.Parse(path, data)
	if err == nil {
		return rules, nil
	}
	var wrong hostrule.Problems
	if !errors.As(err, &wrong) {
		return nil, config.Problems{cfg.Problem("hosts_file", "read the host rules: %v", err)}
	}
	var all config.Problems
	for _, p := range wrong {
		all = append(all, config.Problem{Key: "hosts_file", Source: p.File, Line: p.Line, Message: p.Message})
	}
	return nil, all
}

// ownHost is what the host rules say of public.url.
func ownHost(cfg *config.Config, rules *hostrule.Rules) hostrule.Verdict {
	u, err := url.Parse(cfg.Public.URL)
	if err != nil || u.Host == "" {
		return hostrule.Verdict{Allowed: true}
	}
	return rules.Judge(u.Host)
}
