//! `weir generate`: the resources for one's own services, made from the files that are shipped in `envoy/`.
//!
//! These files are the source: they are about a service `orders` in a namespace `shop`, whose clients have the label
//! `app: storefront`. What is about the service is repeated for each of one's own, with its names; the rest is taken as it is.

mod envoy;
mod gateway;
mod istio;
mod names;
mod template;

use std::process::ExitCode;

use envoy::Envoy;
use gateway::Gateway;
use istio::Istio;

/// Writes the resources that attach Weir to the clients of your services.
///
/// All three roles, the policy, and the native settings that belong beside them. They are those of the guides, in envoy/istio,
/// envoy/gateway and envoy/envoy.yaml, with your names in them; weir check has nothing to say about them. They go to standard output,
/// as YAML.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    platform: Platform,
}

const EXAMPLES: &str = "Examples:
  weir generate istio --service orders.shop:8080 --clients app=storefront
  weir generate istio --service orders.shop:8080 --service carts.shop:80 \\
    --clients app=storefront --clients app=checkout --shadow \\
    | kubectl apply -f -
  weir generate envoy-gateway --route shop/orders --gateway eg \\
    --listener http:80 --listener https:443 | weir check -
  weir generate envoy --service orders=10.0.3.7:8080,10.0.3.8:8080 \\
    --module /etc/envoy/weir.wasm";

/// What to know about the resources for retries and timeouts, which are not Weir's alone.
const TRAFFIC_NOW: &str = "\
# Before you apply it: a VirtualService, DestinationRule or BackendTrafficPolicy of the same name is overwritten. Where you have\n\
# one for the service, take over what is said here instead: retries, timeouts, limits.\n";
const TRAFFIC_LATER: &str = "\
# Your own retries and timeouts stay as they are in shadow mode. What is to change there comes without --shadow.\n";

#[derive(clap::Subcommand)]
enum Platform {
    /// EnvoyFilters, VirtualServices and DestinationRules
    Istio(Istio),
    /// EnvoyPatchPolicy, EnvoyProxy, and the traffic policies of Envoy Gateway
    EnvoyGateway(Gateway),
    /// A bootstrap for an Envoy of your own
    Envoy(Envoy),
}

/// Prints the resources for the platform. Returns the exit status of `weir generate`.
pub fn run(arguments: &Arguments) -> ExitCode {
    let made = match &arguments.platform {
        Platform::Istio(istio) => istio.make(),
        Platform::EnvoyGateway(gateway) => gateway.make(),
        Platform::Envoy(envoy) => envoy.make(),
    };
    match made {
        Ok(text) => {
            crate::print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("weir: {error}");
            ExitCode::FAILURE
        }
    }
}
