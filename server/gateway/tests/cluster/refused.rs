//! Servers that cannot be nodes, or should be.

use std::net::UdpSocket;

use crate::nodes::Cluster;

#[tokio::test]
async fn a_server_that_is_no_node_is_kept_off_a_store_that_nodes_serve() {
    let (cluster, mut nodes) = Cluster::of(1).await;
    let Err(refused) = cluster.try_start(None) else { panic!("nobody would hear of what is stored by it") };
    let told = refused.to_string();
    assert!(told.contains("(node 0)") && told.contains("a [cluster] section"), "{told}");
    nodes.remove(0).stop().await;
    let (server, _data) = cluster.try_start(None).expect("it is the only one");
    server.stop().await;
}

#[tokio::test]
async fn an_address_for_links_that_is_taken_is_told() {
    let cluster = Cluster::new();
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound");
    let Err(refused) = cluster.try_start(Some(address)) else { panic!("it is taken") };
    let told = refused.to_string();
    assert!(told.contains(&format!("cannot listen on {address} (UDP) for links")), "{told}");
}
