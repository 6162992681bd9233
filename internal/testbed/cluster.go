package testbed

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// StartCluster starts three masters that share the slots, and returns a value for REDIS_URL.
func StartCluster(t testing.TB) (url string, nodes []*Redis) {
	t.Helper()
	ranges := [][2]int{{0, 5460}, {5461, 10922}, {10923, 16383}}
	for i := range ranges {
		// The nodes talk to each other on a separate port.
		_, bus, _ := net.SplitHostPort(FreeAddr(t))
		node := StartRedis(t, "--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "2000")
		nodes = append(nodes, node)
		client := node.Client()
		if err := client.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", ranges[i][0], ranges[i][1]).Err(); err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(node.Addr)
		if err := nodes[0].Client().Do(t.Context(), "CLUSTER", "MEET", "127.0.0.1", port, bus).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, node := range nodes {
		client := node.Client()
		Until(t, "the cluster is complete", func() bool {
			info := client.ClusterInfo(t.Context()).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	return nodes[0].URL() + "?addr=" + nodes[1].Addr + "&addr=" + nodes[2].Addr, nodes
}

// A Sentinel is a master with a replica and three sentinels that watch them.
type Sentinel struct {
	URL             string
	Master, Replica *Redis
}

// StartSentinel starts them all.
func StartSentinel(t testing.TB) *Sentinel {
	t.Helper()
	s := &Sentinel{Master: StartRedis(t)}
	host, port, _ := net.SplitHostPort(s.Master.Addr)
	s.Replica = StartRedis(t, "--replicaof", host+" "+port)
	replica := s.Replica.Client()
	Until(t, "the replica follows", func() bool {
		return strings.Contains(replica.Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	var addrs []string
	for range 3 {
		conf := filepath.Join(t.TempDir(), "sentinel.conf")
		content := fmt.Sprintf("sentinel monitor mymaster %s %s 2\nsentinel down-after-milliseconds mymaster 500\n"+
			"sentinel failover-timeout mymaster 3000\nsentinel resolve-hostnames yes\n", host, port)
		if err := os.WriteFile(conf, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		node := &Redis{Addr: FreeAddr(t), t: t, dir: filepath.Dir(conf), args: []string{"--sentinel"}, conf: conf}
		node.Start()
		t.Cleanup(node.Kill)
		addrs = append(addrs, node.Addr)
		client := node.Client()
		Until(t, "the sentinel knows the replica", func() bool {
			return strings.Contains(client.Info(context.Background(), "sentinel").Val(), "slaves=1")
		})
	}
	last := StartedClient(t, addrs[2])
	Until(t, "the sentinels know each other", func() bool {
		return strings.Contains(last.Info(context.Background(), "sentinel").Val(), "sentinels=3")
	})
	s.URL = "redis://" + addrs[0] + "?master_name=mymaster&addr=" + addrs[1] + "&addr=" + addrs[2]
	return s
}
