// Command release packages the chart so that it names the image of its version, and pushes it to an OCI registry.
package main

import (
	"flag"
	"fmt"
	"os"

	"helm.sh/helm/v4/pkg/registry"

	"token-sidecar/test/e2e/charts"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	image := flag.String("image", "", "image without a tag")
	version := flag.String("version", "", "version of chart and image")
	home := flag.String("home", "", "page of the project")
	push := flag.String("push", "", "folder to push to, as in oci://registry.example/charts; empty: none")
	plain := flag.Bool("plain-http", false, "the registry speaks no TLS")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: release [flags] CHART FOLDER-TO-WRITE")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	archive, err := charts.Package(flag.Arg(0), flag.Arg(1),
		charts.Publication{Image: *image, Version: *version, Home: *home})
	if err != nil || *push == "" {
		fmt.Println(archive)
		return err
	}
	var options []registry.ClientOption
	if *plain {
		options = append(options, registry.ClientOptPlainHTTP())
	}
	reference, err := charts.Push(archive, *push, options...)
	if err != nil {
		return err
	}
	fmt.Println(reference)
	return nil
}
